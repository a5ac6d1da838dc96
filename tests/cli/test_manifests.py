"""`generate` and `diff`, and `status` where a platform can tell which link broke: what they print and how they end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import infra.local
from infra.errors import Problem, Transient
from infra.platform import Release
from infra.specs import ModelSpec
from infra.states import Chain, Difference, Link, Sent
from infra.waiting import Progress
from tests.assets.clone import Clone
from tests.cli.screen import Terminal
from tests.doubles.platform import World
from tests.doubles.releases import MANIFEST

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}, "data": {"text": "a\nb\n"}}


class Written:
    """Manifests as a cluster would have them. `found`: what differs."""

    def __init__(self, *found: Difference) -> None:
        self.found = found

    def declared(self, spec: ModelSpec, base: Path, _: Progress) -> tuple[Release, tuple[Sent, ...]]:
        return Release(spec, "r1", MANIFEST, "image@sha256:" + "0" * 64, spec.weights, str(base)), (Sent(SERVICE, ("made once",)), Sent(SERVICE))

    def differences(self, _: Release, __: Progress) -> tuple[Difference, ...]:
        return self.found


class Telling:
    """Whoever follows a chain. `broken`: the links, and the problem of the first that does not hold; or what is raised."""

    def __init__(self, chain: Chain | Transient) -> None:
        self._chain, self.asked = chain, 0

    def chain(self, _: Release, *, live: bool) -> Chain:
        self.asked += 1
        if isinstance(self._chain, Transient):
            raise self._chain
        return self._chain


BROKEN = Chain(
    (Link("cluster", holds=True), Link("node", holds=False, why="Unschedulable"), Link("image", holds=None)),
    Problem("demo-1 is not up: node: Unschedulable", "no node has so many GPUs free", "add GPU nodes", "pod demo-1: 0/2 nodes are available"),
)


def on_a_cluster(clone: Clone, monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    """The clone's platform has these parts too."""
    monkeypatch.setattr(infra.local, "platform", lambda *_: replace(clone.world.platform, **parts))  # type: ignore[arg-type]
    clone.reload()


# ---------------------------------------------------------------- generate, diff


def test_manifests_are_printed_as_yaml_with_their_notes(terminal: Terminal, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """For `kubectl apply -f -`; the same as one JSON document."""
    on_a_cluster(clone, monkeypatch, manifests=Written())

    screen, document = terminal("generate", "demo"), terminal("generate", "demo", "--json").document

    assert (screen.code, screen.err) == (0, "")
    assert list(yaml.safe_load_all(screen.out)) == [SERVICE, SERVICE] == document["manifests"]
    assert screen.out.count("\n---\n") == 2 and "\n# made once\napiVersion" in screen.out
    assert document["notes"] == [["made once"], []]


def test_nothing_differs_is_zero_and_something_is_ten(terminal: Terminal, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each field that does, as it is and as it should be."""
    rows = (
        Difference("Service", "new", "", None, "is there"), Difference("Release", "old", "", "is there", None), Difference("Deployment", "r", "spec.replicas", 7, 2),
        Difference("ConfigMap", "c", "data.cfg", "a\nb\nc\n", "a\nB\nc\n"),
    )  # fmt: skip
    on_a_cluster(clone, monkeypatch, manifests=Written())
    equal = terminal("diff", "demo")
    on_a_cluster(clone, monkeypatch, manifests=Written(*rows))
    screen, document = terminal("diff", "demo"), terminal("diff", "demo", "--json")

    assert (equal.code, screen.code, document.code) == (0, 10, 10)
    assert "demo is as declared" in equal.out
    assert screen.out.splitlines()[:4] == ["demo: 4 things otherwise than declared", "+ Service new", "- Release old", "~ Deployment r  spec.replicas: 7 -> 2"]
    assert "    -b" in screen.out and "    +B" in screen.out
    assert document.document["differences"][2] == {"kind": "Deployment", "name": "r", "field": "spec.replicas", "live": 7, "declared": 2}


def test_where_nothing_is_sent_one_sentence_says_so(terminal: Terminal, clone: Clone) -> None:
    """On this machine a release is made of processes; whether the declared one serves is told all the same."""
    absent = terminal("diff", "demo", "--json")
    clone.serve()
    serving, printed = terminal("diff", "demo"), terminal("generate", "demo")

    assert (absent.code, serving.code, printed.code) == (10, 0, 0)
    assert absent.document["differences"][0]["live"] is None
    assert printed.out.startswith("# local is of platform double: nothing is sent there") and len(printed.out.splitlines()) == 1
    assert terminal("generate", "demo", "--json").document["manifests"] == []


@pytest.mark.parametrize("verb", ["generate", "diff"])
def test_an_unknown_model_is_told_with_the_one_that_was_probably_meant(terminal: Terminal, verb: str) -> None:
    """Exit 2, as of every verb."""
    screen = terminal(verb, "demp")

    assert screen.code == 2 and screen.err.startswith("no model is called demp")


# ---------------------------------------------------------------- status


def test_status_names_the_first_link_that_does_not_hold(terminal: Terminal, clone: Clone, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line all of them, then the four parts; as JSON each with its verdict."""
    clone.serve()
    world.kill(f"demo-{clone.live()}")
    on_a_cluster(clone, monkeypatch, diagnosis=Telling(BROKEN))

    screen, document = terminal("status"), terminal("status", "--json").document

    assert screen.code == 1
    assert "+ cluster  x node  - image" in screen.out
    assert "no node has so many GPUs free" in screen.err and "0/2 nodes are available" in screen.err
    (row,) = document["models"]
    assert (row["state"], row["problem"]["what"], row["waits"]) == ("failed", "demo-1 is not up: node: Unschedulable", None)
    assert row["chain"] == [{"link": "cluster", "holds": True, "why": None}, {"link": "node", "holds": False, "why": "Unschedulable"}, {"link": "image", "holds": None, "why": None}]


def test_what_serves_is_asked_nothing_more(terminal: Terminal, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy status is as quick as before."""
    clone.serve()
    telling = Telling(BROKEN)
    on_a_cluster(clone, monkeypatch, diagnosis=telling)

    assert terminal("status").code == 0
    assert telling.asked == 0


def test_a_chain_that_can_not_be_followed_leaves_what_is_known(terminal: Terminal, clone: Clone, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says what it would have said."""
    clone.serve()
    world.kill(f"demo-{clone.live()}", "killed by somebody")
    plain = terminal("status", "--json").document["models"][0]["problem"]
    on_a_cluster(clone, monkeypatch, diagnosis=Telling(Transient("the API server does not answer")))

    (row,) = terminal("status", "--json").document["models"]

    assert (row["chain"], row["problem"]) == (None, plain)
