"""Why a release does not come up: every known cause has an object that shows it, captured from a real control plane where one can make it.

`captured/<row>.yaml`, or `<row>.<another>.yaml`; the first line of each says where it is from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import CapacityError, ConfigError, Transient
from infra.kubernetes import causes
from infra.kubernetes.causes import Sign

FIXTURES = sorted((Path(__file__).parent / "captured").glob("*.yaml"))


def signs(item: dict[str, Any]) -> list[Sign]:
    """All that one object shows."""
    found = [*causes.of_conditions(item), *causes.of_event(item)]
    return [*found, *causes.of_pod(item)] if item["kind"] == "Pod" else found


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_an_object_that_shows_a_known_cause_is_understood(path: Path) -> None:
    """As the row that its file is named after; the error carries the cluster's own words."""
    found = causes.cause(signs(yaml.safe_load(path.read_text())))

    assert found
    assert found.known.name == path.stem.split(".")[0]
    told = found.error("demo did not start").problem
    assert told.next == found.known.next
    assert found.sign.text[:40] in (told.log or "")


def test_every_known_cause_has_an_object_with_its_origin() -> None:
    """A row that no object shows was guessed."""
    shown = {path.stem.split(".")[0] for path in FIXTURES}

    assert shown == {row.name for row in causes.KNOWN}
    assert len(shown) >= 20
    assert all(path.read_text().startswith("# ") for path in FIXTURES)


def test_of_several_reasons_for_several_nodes_the_one_that_may_pass_counts() -> None:
    """A node that is only full may become free: nobody's declaration is wrong."""
    text = "0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match Pod's node affinity/selector."

    found = causes.cause([Sign("scheduling", "pod demo-0", "Unschedulable", text)])

    assert found
    assert isinstance(found.error("x"), CapacityError)


def test_what_heals_by_itself_is_no_error_of_the_declaration() -> None:
    """A registry that is not reached for a moment must not mark the release."""
    kinds = {row.name: causes.ERRORS[row.kind] for row in causes.KNOWN}

    assert issubclass(kinds["image_unreachable"], Transient)
    assert issubclass(kinds["drained"], Transient)
    assert kinds["image_missing"] is ConfigError
    assert kinds["quota"] is CapacityError
    assert all(row.patience >= 30 for row in causes.KNOWN if row.kind == "passing" and row.name != "claim_missing")


def test_a_healthy_pod_shows_nothing() -> None:
    """Its conditions are all as they should be."""
    status = {"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}], "containerStatuses": [{"name": "engine", "state": {"running": {}}, "lastState": {}}]}

    assert signs({"kind": "Pod", "metadata": {"name": "demo-0"}, "status": status}) == []


def test_a_secret_in_the_clusters_words_is_cut() -> None:
    """Registries repeat what they were asked."""
    sign = Sign("image", "pod demo-0, container engine", "ErrImagePull", "GET https://user:s3cretpassword@registry.example.com/v2/: 401 unauthorized")

    found = causes.cause([sign])

    assert found
    assert "s3cretpassword" not in found.error("x").problem.text()
