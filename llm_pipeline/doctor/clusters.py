"""Lines about clusters elsewhere, and the rights that they have to give."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import yaml

from infra.declarations import Declarations
from infra.errors import ConfigError
from infra.states import Condition
from llm_pipeline import components
from llm_pipeline.doctor import asking
from llm_pipeline.doctor.asking import Found, Question
from llm_pipeline.doctor.lines import Clock, Line, judged, refused, told

if TYPE_CHECKING:
    from infra.kubernetes.checkup import Checkup

SILENT = "look whether this machine reaches it (a firewall, a VPN that is off): kubectl cluster-info"
"""What to do about one that does not answer in time."""


def questions(declared: Declarations, seconds: float) -> Iterator[Question]:
    """One for each; what it is asked beyond its identity comes of that answer, which is waited for as long as this: a little less than for all."""
    until = time.monotonic() + seconds
    for name in declared.clusters:
        if declared.clusters[name].spec.platform != "local":
            yield Question(f"cluster {name}", f"cluster {name} identity", partial(look, name, gpus_of(declared, name), until), SILENT)


def lines(seconds: float = 4.0) -> list[Line]:
    """Those of every cluster elsewhere, by themselves."""
    found = asking.together(tuple(questions(components.declared(), seconds * 0.9)), seconds)
    return [one for one in found if isinstance(one, Line)]


def gpus_of(declared: Declarations, cluster: str) -> Mapping[str, int]:
    """Models on this cluster whose YAML asks for GPUs, and how many one replica gets."""
    return {name: found.spec.resources.gpu for name, found in declared.models.items() if found.spec.cluster == cluster and found.spec.resources.gpu}


def look(name: str, gpus: Mapping[str, int], until: float) -> Iterator[Found]:
    """Whether it answers, and is the one that it was; then all else at once."""
    from infra.kubernetes.checkup import TOGETHER
    from infra.kubernetes.cluster import KubernetesCluster

    part = components.platform_of(name).cluster
    assert isinstance(part, KubernetesCluster)
    checkup, group = part.checkup(until), f"cluster {name}"
    identity = checkup.identity()
    yield line(group, identity)
    if identity.error:
        return
    for names in TOGETHER:
        yield Question(group, f"{group} {names[0]}", partial(conditions, group, checkup, names), SILENT)
    yield Question(group, f"{group} quota", lambda: line(group, checkup.quota()), SILENT)
    if gpus:
        yield Question(group, f"{group} gpus", lambda: line(group, checkup.gpus(gpus)), SILENT)
    yield Question(group, f"{group} clock", lambda: clock(name, checkup.ahead()), SILENT)


def conditions(group: str, checkup: Checkup, names: tuple[str, ...]) -> Iterator[Line]:
    """These, in turn."""
    return (line(group, found) for found in checkup.conditions(names))


def line(group: str, found: Condition) -> Line:
    """A condition as a line: an error forbids everything there, a warning is for somebody to look at."""
    name = f"{group} {found.name}"
    if found.error:
        return refused(group, name, found.error)
    return told(group, name, found.warning, "fix") if found.warning else judged(group, name, found.told, None, "")


def clock(name: str, ahead: float | None) -> Iterator[Clock]:
    """Seen in passing; told with all others in one line."""
    if ahead is not None:
        yield Clock(f"cluster {name}", ahead)


def rbac() -> str:
    """The rights that the product needs on every cluster elsewhere, as manifests."""
    from infra.kubernetes import rights

    names = components.usable_clusters(components.declared().clusters, ("kubernetes",))
    if not names:
        raise ConfigError("no cluster of platform kubernetes is declared", next="add assets/clusters/NAME/defs.yaml; docs/declaring.md has its keys")
    specs = [components.declared().clusters[name].spec for name in names]
    made = ((spec.name, rights.manifests(spec.kubernetes, via=spec.endpoint.via)) for spec in specs if spec.kubernetes)
    return "".join(f"# cluster {name}\n---\n{yaml.safe_dump_all(manifests, sort_keys=False)}" for name, manifests in made)
