"""`cluster` on real API servers: proved to be the same, and checked before anything is made. The contract itself: tests/platform/test_cluster.py."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import kubernetes, settings
from infra.errors import Blocked, ConfigError, Denied, Transient
from infra.kubernetes import kinds, kuberay, rights
from infra.kubernetes.conditions import supported
from infra.kubernetes.place import Place
from infra.platform import Platform
from infra.specs import ClusterSpec
from infra.waiting import Progress
from tests.kubernetes import lab as labs
from tests.kubernetes.between import between
from tests.kubernetes.fixtures import Places
from tests.kubernetes.lab import Lab

DEFAULT = "storageclass.kubernetes.io/is-default-class"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Another cluster, on which nothing was installed."""
    labs.insist_on_processes()
    with labs.started(tmp_path_factory.mktemp("bare"), nodes=1, kuberay=False, ray_venv=None) as made:
        yield made


def declared(place: Place, **keys: Any) -> ClusterSpec:
    block = {**place.block.model_dump(), "kuberay": "existing", **keys}
    return ClusterSpec.model_validate({"name": place.cluster, "platform": "kubernetes", "kubernetes": block})


def platform(place: Place, **keys: Any) -> tuple[Platform, ClusterSpec]:
    spec = declared(place, **keys)
    return kubernetes.platform(place.settings, spec), spec


def test_a_cluster_is_absent_until_it_is_applied_and_the_same_ever_after(place: Place) -> None:
    """Observing makes nothing; what is recorded is server, authority and the UID of kube-system."""
    made, spec = platform(place, namespace=f"{place.namespace}-new")

    before = made.cluster.observe(spec)
    first = made.cluster.apply(spec, Progress(120))
    again = made.cluster.apply(spec, Progress(120))

    assert before is None
    assert (first.changed, again.changed) == (True, False)
    assert set(first.identity) == {"server", "ca", "uid"}
    seen = platform(place, namespace=f"{place.namespace}-new")[0].cluster.observe(spec)
    assert seen
    assert seen.identity == first.identity == again.identity
    place.api.delete(kinds.NAMESPACE, f"{place.namespace}-new")


def test_its_facts_are_what_a_person_wants_to_know(place: Place) -> None:
    """Versions, nodes and what they offer, where volumes come from, where clients find it."""
    made, spec = platform(place)

    facts = made.cluster.apply(spec, Progress(120)).facts

    assert facts["version"] == place.api.version()
    assert facts["nodes"] == facts["nodes_ready"] > 0
    assert facts["cpus"] > 0
    assert facts["memory"] > 1 << 30
    assert facts["storage_class"] == "standard"
    assert facts["endpoint"] == made.endpoint.url("demo")


def test_a_context_that_leads_elsewhere_is_found_before_anything_is_done_there(place: Place, bare: Lab, tmp_path: Path) -> None:
    """Also by `down`, and until somebody says that it moved on purpose."""
    here, spec = platform(place)
    here.cluster.apply(spec, Progress(120))
    elsewhere, spec = platform(bare.place(tmp_path, place.namespace))

    for act in (
        lambda: elsewhere.cluster.observe(spec), lambda: elsewhere.cluster.apply(spec, Progress(120)), lambda: elsewhere.cluster.delete(spec, Progress(120)),
        lambda: elsewhere.records.put("demo", "deployment", {"wanted": False}, None), lambda: elsewhere.inventory.find(),
    ):  # fmt: skip
        with pytest.raises(Blocked) as told:
            act()
    assert bare.api.get(kinds.NAMESPACE, place.namespace) is None
    command = str(told.value.problem.next)
    Path(command.split("rm ")[1].split(";")[0]).unlink()
    assert elsewhere.cluster.observe(spec) is None


def test_a_cluster_that_does_not_answer_can_not_be_told(place: Place, tmp_path: Path) -> None:
    """Neither absent nor another one; whether nobody listens or nobody speaks."""
    with between(place.api, tmp_path) as middle:
        far = place.block.model_copy(update={"kubeconfig": str(middle.kubeconfig), "context": "between"})
        made, spec = platform(Place(place.settings, place.cluster, far))
        middle.break_next("GET", "/namespaces", 503, times=10_000)
        with pytest.raises(Transient):
            made.cluster.observe(spec)
    with pytest.raises(Transient) as told:
        platform(Place(place.settings, place.cluster, far))[0].cluster.observe(spec)
    assert "does not answer" in told.value.problem.what


def test_a_blink_of_the_server_is_not_worth_a_word(place: Place, tmp_path: Path) -> None:
    """One connection that breaks fails no step."""
    with between(place.api, tmp_path) as middle:
        made, spec = platform(Place(place.settings, place.cluster, place.block.model_copy(update={"kubeconfig": str(middle.kubeconfig), "context": "between"})))
        middle.break_next("GET", "/kube-system", "before")

        assert made.cluster.observe(spec)


def test_a_cluster_without_kuberay_is_refused_with_both_ways_out(bare: Lab, tmp_path: Path) -> None:
    """Before a namespace is made."""
    made, spec = platform(bare.place(tmp_path, "without-kuberay"))

    with pytest.raises(ConfigError) as told:
        made.cluster.apply(spec, Progress(120))

    assert "kuberay: install" in str(told.value.problem.next)
    assert bare.api.get(kinds.NAMESPACE, "without-kuberay") is None


def test_a_cluster_without_a_default_class_is_refused_with_those_that_it_has(bare: Lab, tmp_path: Path) -> None:
    """A claim would wait for it for ever."""
    made, spec = platform(bare.place(tmp_path, "without-class"))
    bare.api.merge(kinds.STORAGE_CLASS, "standard", None, {"metadata": {"annotations": {DEFAULT: "false"}}})
    try:
        with pytest.raises(ConfigError) as told:
            made.cluster.apply(spec, Progress(120))
    finally:
        bare.api.merge(kinds.STORAGE_CLASS, "standard", None, {"metadata": {"annotations": {DEFAULT: "true"}}})

    assert "immediate" in str(told.value.problem.why)
    other, spec = platform(bare.place(tmp_path, "without-class"), storage_class="typo")
    with pytest.raises(ConfigError) as told:
        other.cluster.apply(spec, Progress(120))
    assert "typo" in told.value.problem.what


def test_a_kubeconfig_that_is_broken_is_found_when_it_is_needed_and_not_before(place: Place) -> None:
    """The code location loads whatever the file says; the error names file and way out."""
    for kubeconfig, context in (("/nowhere/config", "x"), (str(place.kubeconfig), "typo")):
        made, spec = platform(place, kubeconfig=kubeconfig, context=context)
        with pytest.raises(ConfigError) as told:
            made.cluster.observe(spec)
        assert kubeconfig in str(told.value.problem)
        assert made.endpoint.url("demo")


def test_a_cluster_that_can_not_be_reached_is_in_the_graph_and_is_told_of_by_those_who_look(tmp_path: Path) -> None:
    """Definitions, `status`, `doctor` and `doctor --rbac`, in a process of its own."""
    for kind, name, attributes in (
        ("Cluster", "clusters/far", {"platform": "kubernetes", "kubernetes": {"kubeconfig": "/nowhere/config", "context": "x", "namespace": "models"}}),
        ("Model", "models/demo", {"cluster": "far", "weights": "hf://org/name"}),
    ):
        (tmp_path / "assets" / name).mkdir(parents=True)
        (tmp_path / "assets" / name / "defs.yaml").write_text(yaml.safe_dump({"type": f"llm_pipeline.components.{kind}", "attributes": attributes}))
    code = """
        import json, pathlib, sys, warnings
        warnings.simplefilter("ignore")
        from infra import settings
        settings.ROOT = pathlib.Path(sys.argv[1])
        from llm_pipeline import definitions, doctor, views
        from llm_pipeline.doctor import clusters
        keys = {key.to_user_string() for key in definitions.whole().resolve_asset_graph().get_all_asset_keys()}
        rows = {row["state"]: row["problem"]["what"] for row in (views.row_or_why_not("demo"), views.cluster_row("far"))}
        print(json.dumps({"keys": sorted(keys), "rows": rows, "doctor": [line.as_dict() for line in clusters.lines(60)], "names": views.model_names([]), "rbac": doctor.rbac()}))
    """
    argv = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(argv, cwd=settings.ROOT, capture_output=True, text=True, check=False, env={"HOME": str(tmp_path), "LLM_PIPELINE_HOME": str(tmp_path / "home")})

    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert {"far/cluster", "demo/ray_service", "demo/endpoint"} <= set(told["keys"])
    assert told["rows"] == {"failed": "/nowhere/config can not be used"}
    assert [(line["state"], "/nowhere/config" in line["next"]) for line in told["doctor"]] == [("missing", True)]
    assert told["names"] == ["demo"]
    assert {item["metadata"].get("namespace", "models") for item in yaml.safe_load_all(told["rbac"])} == {"models"}


def test_deleting_keeps_the_namespace_and_its_records_and_forgets_the_place(place: Place) -> None:
    """Twice is as good as once."""
    made, spec = platform(place)
    made.cluster.apply(spec, Progress(120))
    made.records.put("demo", "deployment", {"wanted": False}, None)

    made.cluster.delete(spec, Progress(120))
    made.cluster.delete(spec, Progress(120))

    assert not (place.cache / "identity.json").exists()
    assert made.records.get("demo", "deployment")
    assert made.cluster.apply(spec, Progress(120)).changed


# ---------------------------------------------------------------- rights


def test_an_account_with_the_printed_rights_gets_through_and_one_verb_less_is_named(lab: Lab, place: Place) -> None:
    """Applied as it is printed; then without one verb in the namespace and one outside of it."""
    labs.insist_on_processes()
    limited = _as_account(lab, place, f"{place.namespace}-rights")
    made, spec = platform(limited)
    with pytest.raises(Denied) as none_yet:
        made.cluster.apply(spec, Progress(120))

    printed = list(yaml.safe_load_all(yaml.safe_dump_all(rights.manifests(spec.kubernetes))))  # type: ignore[arg-type]
    for manifest in printed:
        lab.api.apply(manifest)
    known(limited, granted=True)
    made.cluster.apply(spec, Progress(120))
    role, wide = (copy.deepcopy(next(item for item in printed if item["kind"] == kind)) for kind in ("Role", "ClusterRole"))
    next(rule for rule in role["rules"] if rule["resources"] == ["pods/log"])["verbs"] = ["list"]
    next(rule for rule in wide["rules"] if rule["resources"] == ["nodes"])["verbs"] = ["watch"]
    next(rule for rule in wide["rules"] if rule["resources"] == ["deployments"])["verbs"] = ["watch"]  # in the namespace it may
    lab.api.apply(role)
    lab.api.apply(wide)
    known(limited, granted=False)

    with pytest.raises(Denied) as told:
        made.cluster.apply(spec, Progress(120))
    for manifest in printed[::-1]:  # what is outside of the namespace would stay
        lab.api.delete(kinds.KINDS[manifest["apiVersion"], manifest["kind"]], manifest["metadata"]["name"], limited.namespace)
    assert "create configmaps" in str(none_yet.value.problem.why)
    assert "doctor --rbac" in str(none_yet.value.problem.next)
    assert told.value.problem.why == f"get pods/log in {limited.namespace}; list nodes; list deployments"


def known(limited: Place, *, granted: bool) -> None:
    """The server learns of what was granted or taken away a moment after it took the manifest."""
    asked = (("get", kinds.POD, limited.namespace, "log"), ("list", kinds.NODE, None, ""), ("list", kinds.DEPLOYMENT, None, ""))
    Progress(120).until(lambda: True if {limited.api.allowed(*one) for one in asked} == {granted} else None, every=0.2)


def _as_account(lab: Lab, place: Place, namespace: str) -> Place:
    """A place in another namespace, reached by the account that the printed manifest is for."""
    lab.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    file = lab.cluster.kubeconfig_for(f"{namespace}/llm-pipeline", duration=3600)
    context = yaml.safe_load(Path(file).read_text())["current-context"]
    return Place(place.settings, place.cluster, place.block.model_copy(update={"kubeconfig": str(file), "context": context, "namespace": namespace}))


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(("version", "authentication", "suspend"), [("1.4.2", False, False), ("1.5.1", True, False), ("1.6.1", True, False), ("1.7.0", True, True)])
def test_what_a_version_of_kuberay_can_do_is_read_from_its_definition(crd_archive: Path, version: str, authentication: bool, suspend: bool) -> None:
    """Not guessed from a number."""
    with tarfile.open(crd_archive) as archive:
        file = archive.extractfile(next(name for name in archive.getnames() if name.endswith(f"v{version}.rayservices.yaml")))
        assert file
        knows = kuberay.known(yaml.load(file, yaml.CSafeLoader))

    assert knows
    assert ("rayClusterConfig.authOptions" in knows) == authentication
    assert ("suspend" in knows) == suspend
    assert "serveConfigV2" in knows


@pytest.mark.parametrize(("image", "labels", "args", "version", "namespaces"), [
    ("quay.io/kuberay/operator:v1.6.1", {}, [], (1, 6, 1), ()),
    ("registry.example.com:5000/kuberay/operator:v1.4.2@sha256:" + "a" * 64, {}, ["--enable-leader-election=true"], (1, 4, 2), ()),
    ("mirror/operator@sha256:" + "a" * 64, {"helm.sh/chart": "kuberay-operator-1.5.1"}, ["--watch-namespace=llm,demo"], (1, 5, 1), ("llm", "demo")),
    ("mirror/operator:nightly", {}, ["--watch-namespace", "other"], None, ("other",)),
])  # fmt: skip
def test_an_operator_is_known_by_its_deployment(image: str, labels: dict[str, str], args: list[str], version: tuple[int, ...] | None, namespaces: tuple[str, ...]) -> None:
    """Its version by image, label or chart; the namespaces that it looks after by its arguments."""
    container = {"name": "kuberay-operator", "image": image, "command": ["/manager"], "args": args}
    deployment = {"metadata": {"name": "kuberay-operator", "namespace": "ray", "labels": labels}, "spec": {"template": {"spec": {"containers": [container]}}}, "status": {"availableReplicas": 1}}

    found = kuberay.operator_of(deployment)

    assert (found.version, found.namespaces, found.ready) == (version, namespaces, True)


@pytest.mark.parametrize(("image", "args", "word"), [("kuberay/operator:v1.1.0", [], "too old"), ("kuberay/operator:v1.6.1", ["--watch-namespace=theirs"], "looks after")])
def test_an_operator_that_is_too_old_or_looks_elsewhere_is_refused(places: Places, image: str, args: list[str], word: str) -> None:
    """It is a Deployment in any namespace, with the labels of the chart."""
    place = places()
    labels = {"app.kubernetes.io/name": "kuberay-operator"}
    meta = {"name": "operator-of-a-test", "namespace": place.namespace, "labels": labels}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "kuberay-operator", "image": image, "args": args}]}}
    place.api.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}})
    made, spec = platform(place)
    try:
        with pytest.raises(ConfigError) as told:
            made.cluster.apply(spec, Progress(120))
    finally:
        place.api.delete(kinds.DEPLOYMENT, meta["name"], place.namespace)

    assert word in told.value.problem.what


def test_a_server_that_is_too_old_is_refused() -> None:
    """With the version that would do."""
    with pytest.raises(ConfigError) as told:
        supported("v1.24.17-eks-abc")

    assert "1.28" in str(told.value.problem.why)
    assert supported("v1.35.4") == "v1.35.4"


def test_settings_name_the_kubeconfig_where_the_declaration_does_not(place: Place) -> None:
    """Several files are one, as kubectl takes them."""
    several = settings.load(home=place.settings.home, KUBECONFIG=f"/nowhere/config:{place.kubeconfig}")
    spec = declared(place, kubeconfig=None)

    assert kubernetes.platform(several, spec).cluster.observe(spec)


# ---------------------------------------------------------------- ours


def test_an_operator_of_ours_is_put_where_there_is_none_and_goes_with_the_rest(bare: Lab, tmp_path: Path) -> None:
    """Once; with definitions that a RayService fits; and `--purge` of the cluster leaves neither it nor the namespace."""
    place = bare.place(tmp_path, "with-operator")
    made, spec = platform(place, kuberay="install")

    due = [made.cluster.pending(spec)]
    first = made.cluster.apply(spec, Progress(240))
    due.append(made.cluster.pending(spec))
    again = made.cluster.apply(spec, Progress(120))

    assert (first.changed, again.changed) == (True, False)
    assert [[one.declared for one in found] for found in due] == [["1.6.1"], []]
    assert first.facts["kuberay"] == "1.6.1 (with-operator/kuberay-operator)"
    assert place.api.serves(kinds.RAY_SERVICE)
    rows = made.inventory.find()
    assert [(row.part, row.data) for row in rows] == [("kuberay", True), ("namespace", True)]
    for row in rows:
        made.inventory.remove(row, Progress(240))
    assert place.api.get(kinds.DEFINITION, kuberay.DEFINITION) is None
    assert bare.api.get(kinds.NAMESPACE, "with-operator") is None


def test_definitions_stay_while_others_have_objects_of_them(bare: Lab, tmp_path: Path) -> None:
    """Kubernetes would remove their Ray clusters with them."""
    place = bare.place(tmp_path, "with-operator")
    made, spec = platform(place, kuberay="install")
    made.cluster.apply(spec, Progress(240))
    theirs = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "theirs", "namespace": "default"}, "spec": {"entrypoint": "true"}}
    bare.api.apply(theirs)

    made.inventory.remove(made.inventory.find()[0], Progress(240))

    (row, _) = made.inventory.find()
    assert (row.part, "CustomResourceDefinition" in row.why_ours, "Deployment" in row.why_ours) == ("kuberay", True, False)
    assert bare.api.get(kinds.RAY_JOB, "theirs", "default")
    bare.api.delete(kinds.RAY_JOB, "theirs", "default")
    for left in made.inventory.find():
        made.inventory.remove(left, Progress(240))


def test_what_somebody_else_put_is_used_and_never_doubled(place: Place) -> None:
    """`install` where KubeRay is there already."""
    made, spec = platform(place, kuberay="install")

    made.cluster.apply(spec, Progress(120))

    assert place.api.list(kinds.DEPLOYMENT, place.namespace).items == ()
    assert made.inventory.find() == ()
