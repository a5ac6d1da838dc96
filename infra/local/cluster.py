"""cluster on this machine: its CPUs, memory and GPUs, a home for what we keep, and the stable port.

Upstream     nothing            Downstream     everything
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from infra.errors import ConfigError, Permanent, Transient
from infra.local import machine
from infra.local.endpoint import LocalEndpoint, free_port
from infra.settings import Settings, private
from infra.specs import ClusterSpec
from infra.states import ClusterState, Condition, Difference
from infra.waiting import Progress

CONDITIONS = {"home": "The folder for all that is kept on this machine can be written.", "port": "The stable port is our router's, or free."}
"""What each is about."""


class LocalCluster:
    """`ClusterPart`. Identity: the machine and the home; a moved disk is another cluster."""

    def __init__(self, settings: Settings, endpoint: LocalEndpoint) -> None:
        self._settings, self._endpoint = settings, endpoint

    def observe(self, spec: ClusterSpec) -> ClusterState | None:
        if not self._settings.home.is_dir():
            return None
        here = machine.look()
        identity = {"machine": here.machine_id, "home": str(self._settings.home)}
        facts = asdict(here) | {"memory_free": machine.memory_free(), "disk_free": machine.disk_free(self._settings.home), "endpoint": self._endpoint.url()}
        return ClusterState(identity, facts)

    @property
    def conditions(self) -> Mapping[str, str]:
        return CONDITIONS

    def examine(self, spec: ClusterSpec) -> Iterator[Condition]:
        """The home is made here: whether it can be written is told by nothing else."""
        for name, ask in {"home": self._own_home, "port": self._own_port}.items():
            try:
                yield Condition(name, ask())
            except Permanent as error:
                yield Condition(name, error.problem.what, error)
                return

    def pending(self, spec: ClusterSpec) -> tuple[Difference, ...]:
        """Nothing is installed on this machine: what engines need comes with their image."""
        return ()

    def apply(self, spec: ClusterSpec, progress: Progress) -> ClusterState:
        """Makes the home, and sees that the stable port is ours or free."""
        existed = self._settings.home.is_dir()
        self._own_home()
        self._own_port()
        state = self.observe(spec)
        if state is None:
            raise Transient(f"the home {self._settings.home} vanished", next="run the same command again")
        return replace(state, changed=not existed)

    def delete(self, spec: ClusterSpec, progress: Progress) -> None:
        """The machine stays; what of ours runs for the whole cluster (the router) ends."""
        self._endpoint.stop(progress)

    # ------------------------------------------------ private

    def _own_home(self) -> str:
        try:
            private(self._settings.home)
            (self._settings.home / ".gitignore").write_text("*\n")
        except OSError as error:
            raise ConfigError(
                f"the home {self._settings.home} can not be written", why=str(error), next="set LLM_PIPELINE_HOME to a folder of yours, or make room there",
            ) from error  # fmt: skip
        return str(self._settings.home)

    def _own_port(self) -> str:
        wanted = self._settings.endpoint_port
        if self._endpoint.running():
            return f"{self._endpoint.url()}: our router"
        free_port(wanted)
        return f"{wanted} is free" if wanted else "any free one"
