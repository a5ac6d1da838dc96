"""Between files: names that are taken twice, clusters that are not there, and that a wrong file disables only itself."""

from __future__ import annotations

from pathlib import Path

from infra.declarations import Declarations, load_tree

CLUSTER = "type: llm_pipeline.components.Cluster\nattributes:\n  platform: local\n"
MODEL = "type: llm_pipeline.components.Model\nattributes:\n  cluster: lab\n  weights: file://w\n"


def tree(root: Path, **files: str) -> Declarations:
    """`clusters__lab="…"` is assets/clusters/lab/defs.yaml."""
    for key, text in files.items():
        file = root / "assets" / key.replace("__", "/") / "defs.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return load_tree(root)


def told(found: Declarations) -> dict[str, str]:
    return {
        broken.path.removeprefix("assets/").removesuffix("/defs.yaml"): broken.problem.what.split("defs.yaml", 1)[1]
        for broken in found.broken
    }


def test_nothing_declared_is_no_error(tmp_path: Path) -> None:
    """A clone of which somebody removed all models still has a status."""
    assert load_tree(tmp_path) == Declarations({}, {}, ())


def test_a_wrong_file_disables_only_itself(tmp_path: Path) -> None:
    """The others of its cluster are as if it were not there."""
    found = tree(tmp_path, clusters__lab=CLUSTER, models__good=MODEL, models__bad=MODEL + "  \tx", models__worse="")

    assert list(found.models) == ["good"]
    assert list(told(found)) == ["models/bad", "models/worse"]


def test_two_models_of_one_name_are_both_broken_and_name_each_other(tmp_path: Path) -> None:
    """Neither wins: which one did would hang on the order of reading, and it may be the one that serves."""
    found = tree(tmp_path, clusters__lab=CLUSTER, models__a=MODEL + "  name: b\n", models__b=MODEL, models__c=MODEL)

    assert list(found.models) == ["c"]
    assert told(found) == {
        "models/a": ":5 name: b is also the name of the model in assets/models/b/defs.yaml; rename one folder",
        "models/b": " name: b is also the name of the model in assets/models/a/defs.yaml; rename one folder",
    }


def test_a_model_named_as_a_cluster_breaks_both_and_what_runs_there(tmp_path: Path) -> None:
    """One name space: both are groups of one graph."""
    found = tree(tmp_path, clusters__lab=CLUSTER, clusters__other=CLUSTER, models__lab=MODEL, models__a=MODEL)

    assert list(found.clusters) == ["other"]
    assert told(found) == {
        "clusters/lab": " name: lab is also the name of the model in assets/models/lab/defs.yaml; rename one folder",
        "models/a": ":3 cluster: lab can not be used, its file assets/clusters/lab/defs.yaml is broken; correct that one first",
        "models/lab": " name: lab is also the name of the cluster in assets/clusters/lab/defs.yaml; rename one folder",
    }


def test_an_unknown_cluster_is_told_with_the_known_ones(tmp_path: Path) -> None:
    """And with the one that was probably meant."""
    found = tree(
        tmp_path,
        clusters__lab=CLUSTER,
        clusters__prod=CLUSTER,
        models__a=MODEL.replace("lab", "labb"),
        models__b=MODEL.replace("lab", "zzz"),
    )

    assert told(found) == {"models/a": ":3 cluster: unknown cluster labb; did you mean lab?", "models/b": ":3 cluster: unknown cluster zzz"}
    assert {broken.problem.why for broken in found.broken} == {"declared clusters: lab, prod"}


def test_no_cluster_at_all_is_told_with_the_file_to_add(tmp_path: Path) -> None:
    """Nothing else could help."""
    (broken,) = tree(tmp_path, models__a=MODEL).broken

    assert broken.problem.why == "none is declared; add assets/clusters/lab/defs.yaml"


def test_a_model_on_a_broken_cluster_names_the_cluster_s_file(tmp_path: Path) -> None:
    """The model's own file is right, so its message must lead to the other one."""
    found = tree(tmp_path, clusters__lab=CLUSTER.replace("local", "gcp"), models__a=MODEL)

    assert (
        told(found)["models/a"]
        == ":3 cluster: lab can not be used, its file assets/clusters/lab/defs.yaml is broken; correct that one first"
    )


def test_two_models_served_under_one_name_on_one_cluster_are_both_broken(tmp_path: Path) -> None:
    """The router could not tell them apart; on two clusters there are two routers."""
    served = MODEL + "  served_name: org/x\n"
    found = tree(
        tmp_path, clusters__lab=CLUSTER, clusters__far=CLUSTER, models__a=served, models__b=served, models__c=served.replace("lab", "far")
    )

    assert list(found.models) == ["c"]
    assert told(found) == {
        "models/a": ":5 served_name: org/x on the cluster lab is also what assets/models/b/defs.yaml serves; change one",
        "models/b": ":5 served_name: org/x on the cluster lab is also what assets/models/a/defs.yaml serves; change one",
    }


def test_files_beside_the_folders_are_nobody_s_declaration(tmp_path: Path) -> None:
    """Notes, caches and hidden folders."""
    for folder in (".hidden", "__pycache__"):
        (tmp_path / "assets/models" / folder).mkdir(parents=True)
        (tmp_path / "assets/models" / folder / "defs.yaml").write_text("wrong")
    (tmp_path / "assets/models/README.md").write_text("notes")
    (tmp_path / "assets/models/empty").mkdir()

    assert load_tree(tmp_path) == Declarations({}, {}, ())


def test_a_file_in_place_of_the_folder_of_models_is_told(tmp_path: Path) -> None:
    """The clusters beside it stand."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/models").write_text("oops")
    found = tree(tmp_path, clusters__lab=CLUSTER)

    assert list(found.clusters) == ["lab"]
    assert found.broken[0].problem.what == "assets/models can not be listed: Not a directory"
