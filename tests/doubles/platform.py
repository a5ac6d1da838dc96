"""A platform in memory for the tests of the stages, the loop and the command line. Strict in its interface, scripted in its world.

    world = World(tmp_path)          what exists, and what is to go wrong
    world.platform                   the record of parts that looks at it and changes it

Records and locks are the real ones of the local platform. Whatever is asked over HTTP is asked over HTTP: every release has a
server of its own on loopback (the double of tests/doubles/engine.py in a thread), and so has the endpoint, which passes requests on
to the release that its table names and marks the answers as the router does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from infra.errors import CapacityError, PipelineError
from infra.idleness import Bucket
from infra.local.records import LocalRecords
from infra.platform import Platform, Release, Sharer
from infra.states import Difference, Fit, Held, Leftover, Route, Traffic
from tests.doubles.candidates import Servers
from tests.doubles.engine import Engine
from tests.doubles.parts import Behaviour, Front, Image, Inventory, Place, Prices, Room, Running, Service, Usage, Weights


class World:
    """What exists, and the switches.

    source          per model: the revision that its source holds now
    looks           glances and looks at sources, in order, with the model
    on_look         called at every glance, with the model; what it raises comes out there
    behave          per revision: how its candidate answers
    start_errors    raised by the next starts, one each
    never_ready     a start waits for ever (its wait obeys the deadline and a withdrawal)
    on_start        called at every look of a start that waits, and once by one that does not
    on_observe      called at every look at one service, with its name
    on_call         called before each thing that is done to the platform; what it raises comes out there
    dead            why the engine died, per release name: `observe` calls it dead
    silent          raised by every look at services: cannot tell
    fits            whether there is room beside another release of the same model; a list answers one after the other
    fit             the planner's word for every release
    reports         what every engine says of itself beside its arguments
    memory          GiB of the machine, when it is to be counted: every release needs 4
    sharers         who else uses the store
    spent           what lies in the store beside weights and images
    room_error      raised by the stage gpu_nodepool
    lacks           what the cluster has to get
    machines        what of machines of our own is otherwise than declared
    source_error    raised by every look at the source
    weights_errors  raised by the next fetches, one each
    damaged         files that `verify` finds bad, until they are fetched again
    readings        in-flight numbers to come, per release name; then `idle`
    other_mark      the endpoint marks its answers with this instead of the release's name
    blind           the endpoint is no router: nothing is counted, and no mark of its answers is believed
    leads_elsewhere whoever looks at the endpoint sees that it leads to another release
    sticky          ids that the inventory can not remove, and that always stay
    traffic         what was counted of a model; none: it can not be told
    quiet           since when nobody used a model, where that is proved
    resting         what the endpoint does with what comes for a name that leads nowhere
    usd             USD per hour of each release; None: not known
    nodes_go        what a release ran on goes when it sleeps
    calls           what was done to the platform, in order
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.records = LocalRecords(home)
        self.identity: dict[str, str] | None = None
        self.unfit: PipelineError | None = None
        self.source: dict[str, str] = {}
        self.looks: list[tuple[str, str]] = []
        self.on_look: Callable[[str], object] = lambda _: None
        self.behave: dict[str, Behaviour] = {}
        self.start_errors: list[PipelineError] = []
        self.never_ready = False
        self.on_start: Callable[[Release], object] = lambda _: None
        self.on_observe: Callable[[str], object] = lambda _: None
        self.on_call: Callable[[tuple[str, ...]], object] = lambda _: None
        self.dead: dict[str, str] = {}
        self.silent: PipelineError | None = None
        self.fits: bool | list[bool] = True
        self.fit = Fit("fits", "it fits", hardware="main memory", numbers={"weights": 4e6, "cache": 64e6, "tokens": 2048.0})
        self.reports: dict[str, str] = {}
        self.memory: float | None = None
        self.reserved: set[str] = set()
        self.sharers: tuple[Sharer, ...] = ()
        self.spent: list[Held] = []
        self.room_error: PipelineError | None = None
        self.lacks: tuple[Difference, ...] = ()
        self.machines: tuple[Difference, ...] = ()
        self.source_error: PipelineError | None = None
        self.weights_errors: list[PipelineError] = []
        self.traffic: dict[str, Traffic] = {}
        self.quiet: dict[str, float] = {}
        self.used: dict[str, list[Bucket]] = {}
        self.noted: list[str] = []
        self.on_note: Callable[[str], object] = lambda _: None
        self.resting: dict[str, str] = {}
        self.damaged: list[str] = []
        self.readings: dict[str, list[int | None]] = {}
        self.idle: int | None = 0
        self.other_mark: str | None = None
        self.blind = False
        self.leads_elsewhere = False
        self.sticky: list[Leftover] = []
        self.usd: float | None = 0.0
        self.nodes_go = False
        self.image = "local:" + "0" * 16
        self.calls: list[tuple[str, ...]] = []
        self.running: dict[str, Running] = {}
        self.stored: set[str] = set()
        self.images: set[str] = set()
        self.routes: dict[str, Route | None] = {}
        self.generation = 0
        self.front: asyncio.Server | None = None
        self.servers = Servers()
        self.alone = threading.Lock()

    @property
    def platform(self) -> Platform:
        service = Service(self)
        return Platform(
            name="double", cluster=Place(self), gpu_nodepool=Room(self), model_weights=Weights(self), image=Image(self), ray_service=service,
            endpoint=Front(self), records=self.records, usage=Usage(self), inventory=Inventory(self), sweep_pause=0.0, prices=Prices(self),
        )  # fmt: skip

    def did(self, *what: str) -> None:
        self.on_call(what)
        self.calls.append(what)

    def done(self, verb: str) -> list[str]:
        """Whom this was done to, in order."""
        return [call[1] for call in self.calls if call[0] == verb]

    def kill(self, name: str, why: str = "its processes are gone") -> None:
        """A release's processes die."""
        self.dead[name] = why
        self.servers.end(self.running[name].server)

    def shrunk(self, name: str) -> bool:
        """Whether of a release only the frame is there."""
        found = self.running.get(name)
        return bool(found and found.state.phase == "shrunk")

    def serve(self, engine: Engine) -> asyncio.Server:
        """A server of this world."""
        return self.servers.open(engine.serve)

    def behind(self, served_name: str) -> tuple[Engine, str] | None:
        """Who answers for a name, and the mark that its answers get."""
        route = self.routes.get(served_name)
        found = self.running.get(route.release) if route else None
        if route is None or found is None or route.release in self.dead:
            return None
        return found.engine, self.other_mark or route.release

    def stop_front(self) -> None:
        if self.front:
            self.servers.end(self.front)
        self.front = None

    def close(self) -> None:
        """Ends every server and the thread."""
        for found in self.running.values():
            self.servers.end(found.server)
        self.stop_front()
        self.servers.close()


def no_room() -> CapacityError:
    """What a machine without room says."""
    return CapacityError("demo does not fit on this machine", why="needs 4.0 GiB of memory, 1.0 GiB are free", next="take another model down first")
