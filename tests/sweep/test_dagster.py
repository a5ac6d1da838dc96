"""With webserver, daemon, code server, run worker and steps as a user has them: a sample of `make sweep`, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.sweep import daemon
from tests.sweep.daemon import Scripted

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def made() -> Iterator[Scripted]:
    with daemon.scripted() as made:
        yield made


@pytest.mark.parametrize(("number", "victim"), [(1, "run worker"), (2, "Terminate in the UI")])
def test_make_up_mends_what_was_killed_and_what_served_goes_on(made: Scripted, number: int, victim: str) -> None:
    """The run ends as failed or cancelled, and the next one does not wait behind it."""
    row = daemon.cell(made, victim, 700 + number)

    assert row.wrong == [], (row.ended, row.healed)


def test_ctrl_c_ends_following_and_nothing_else_and_says_how_to_go_on(made: Scripted) -> None:
    """Exit code 130; the run goes on to its end, and the endpoint answers all the time."""
    before = made.live()
    made.declare(710)
    typed = made.begin()

    typed.send_signal(signal.SIGINT)
    _, said = typed.communicate(timeout=30)

    assert typed.returncode == 130
    assert "what was begun goes on" in said and "llm-pipeline status --watch" in said and "llm-pipeline down" in said
    assert daemon.whole(made, only_answers=True) == []
    made.until(lambda: made.live() != before, 60, "the new release to be live")


def test_up_reloads_the_code_location_when_a_file_changed_and_only_then(made: Scripted) -> None:
    """An edit counts at once; what was loaded already is not loaded again."""
    before = loaded_at(made)
    made.declare(720, scripted="")
    made.clone.json("up", "demo")
    edited, live = loaded_at(made), made.live()

    made.clone.json("rollback", "demo")

    assert before < edited == loaded_at(made)
    assert made.live() != live


def loaded_at(made: Scripted) -> float:
    """Since when the location is what it is, as Dagster says."""
    query = '{ workspaceLocationEntryOrError(name: "llm_pipeline") { ... on WorkspaceLocationEntry { updatedTimestamp } } }'
    with httpx.Client(trust_env=False, timeout=20) as client:
        said = client.post(f"http://127.0.0.1:{made.clone.dagster}/graphql", json={"query": query}).json()
    return float(said["data"]["workspaceLocationEntryOrError"]["updatedTimestamp"])
