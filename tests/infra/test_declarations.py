"""One file at a time: every way in which it can be wrong, and the words it is told in."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from infra.declarations import Declarations, load_tree, nearest, read
from infra.errors import ConfigError, Problem
from infra.specs import ClusterSpec, ModelSpec

ROOT = Path(__file__).parents[2]
GOOD = """\
type: llm_pipeline.components.Model
attributes:
  cluster: local
  weights: hf://Qwen/Qwen3-0.6B
  engine:
    max_model_len: 4096
    dtype: bfloat16
  acceptance:
    golden:
      - {prompt: "2 + 2?", contains: "4"}
"""
SHOWN = "assets/models/llama/defs.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "type: llm_pipeline.components.Cluster\nattributes: {platform: local}\n", "clusters/local")
    return tmp_path


def put(root: Path, text: str | bytes, folder: str = "models/llama") -> Path:
    file = root / "assets" / folder / "defs.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def problem(root: Path, text: str | bytes) -> Problem:
    put(root, text)
    return only_problem(load_tree(root))


def only_problem(tree: Declarations) -> Problem:
    (broken,) = tree.broken
    assert (broken.kind, broken.name, broken.path, dict(tree.models)) == ("model", "llama", SHOWN, {})
    assert list(tree.clusters) == ["local"]
    return broken.problem


def test_a_good_file_becomes_a_spec_with_the_lines_of_its_keys(root: Path) -> None:
    """The folder's name is the name; a key that is not written has its block's line."""
    file = put(root, GOOD)
    declared = load_tree(root).models["llama"]

    assert declared.spec.name == declared.spec.served_name == "llama"
    assert declared.base == file.parent
    assert declared.at("engine.dtype") == f"{SHOWN}:7"
    assert declared.at("engine.kind") == f"{SHOWN}:5"
    assert declared.at("acceptance.golden[0].contains") == f"{SHOWN}:10"
    assert declared.at("acceptance.golden[7].contains") == f"{SHOWN}:9"
    assert declared.at("nowhere") == SHOWN


def test_a_mistyped_key_is_told_in_four_parts(root: Path) -> None:
    """File, line, key, what was probably meant, what is allowed, what to do, and the line itself."""
    assert problem(root, GOOD.replace("max_model_len", "max_model_length")) == Problem(
        what=f"{SHOWN}:6 engine.max_model_length: unknown key; did you mean max_model_len?",
        why="allowed under engine: kind, max_model_len, max_num_seqs, dtype, tensor_parallel_size, chat_template, extra",
        next=f"correct {SHOWN}, then: llm-pipeline up llama",
        log="6 |     max_model_length: 4096",
    )


EDITS = {
    "key of another block": ("  engine:", "  dtype: auto\n  engine:", ":5 dtype: unknown key; it belongs under engine"),
    "key of the top": ("    dtype", "    image: null\n    dtype", ":7 engine.image: unknown key; it belongs directly under attributes"),
    "engine argument outside extra": (
        "    dtype",
        "    enforce_eager: true\n    dtype",
        ":7 engine.enforce_eager: unknown key; other engine arguments",
    ),
    "text for a number": ("4096", '"4096"', ':6 engine.max_model_len: must be a whole number, got "4096"; write it without quotes'),
    "fraction": ("4096", "4096.5", ":6 engine.max_model_len: must be a whole number, got 4096.5"),
    "too small": ("4096", "0", ":6 engine.max_model_len: must be at least 16, got 0"),
    "too large": ("4096", "99999999999", ":6 engine.max_model_len: must be at most 10000000, got 99999999999"),
    "larger than any machine": ("4096", "9" * 5000, ":6 engine.max_model_len: 9999"),
    "octal": ("4096", "010", ":6 engine.max_model_len: 010 is not a plain decimal number"),
    "sexagesimal": ("4096", "1:30", ":6 engine.max_model_len: 1:30 is not a plain decimal number"),
    "underscores": ("4096", "4_096", ":6 engine.max_model_len: 4_096 is not a plain decimal number"),
    "nan": ("4096", ".nan", ":6 engine.max_model_len: .nan is not a plain decimal number"),
    "infinity": ("4096", "-.inf", ":6 engine.max_model_len: -.inf is not a plain decimal number"),
    "infinity by exponent": ("4096", "1.0e+999", ":6 engine.max_model_len: 1.0e+999 is not a plain decimal number"),
    "date": ('"4"', "2024-01-01", ":10 acceptance.golden[0].contains: 2024-01-01 is read as a date; put it in quotes"),
    "number for text": ('"4"', "4", ":10 acceptance.golden[0].contains: must be text, got 4; put it in quotes"),
    "yes for text": ("local", "yes", ":3 cluster: must be text, got yes; put it in quotes"),
    "list for text": ("local", "[a]", ":3 cluster: must be text, got a list"),
    "text for a block": (
        "  engine:\n    max_model_len: 4096\n    dtype: bfloat16",
        "  engine: ray",
        ":5 engine: must be a mapping (key: value), got ray",
    ),
    "wrong choice": (
        "bfloat16",
        "bf16",
        ":7 engine.dtype: must be auto or bfloat16 or float16 or float32, got bf16; did you mean bfloat16?",
    ),
    "required key": ("  cluster: local\n", "", ":2 cluster: is missing: The declared cluster where it runs."),
    "required key of an entry": ('prompt: "2 + 2?", ', "", ":10 acceptance.golden[0].prompt: is missing"),
    "empty text": ('"4"', '""', ":10 acceptance.golden[0].contains: must not be empty"),
    "bad regex": ('contains: "4"', 'matches: "(["', ":10 acceptance.golden[0].matches: is not a regular expression"),
    "no expectation": (', contains: "4"', "", ":10 acceptance.golden[0]: needs exactly one of answer, contains, matches; has none"),
    "bad source": ("hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", ":4 weights: must say where the weights are: hf://org/name"),
    "our own argument": (
        "    dtype: bfloat16",
        "    extra:\n      a: 1\n      port: 80",
        ":9 engine.extra.port: is set by the product; use the setting",
    ),
    "a secret's name": (
        "    dtype: bfloat16",
        "    extra: {hf_token: x}",
        ":7 engine.extra.hf_token is set by the product; use the setting HF_TOKEN",
    ),
    "said twice": ("    dtype: bfloat16", "    dtype: auto\n    dtype: auto", ":8 engine.dtype: stands twice; first in line 7"),
    "tab": ("    dtype", "\tdtype", ":7 a tab stands where only spaces may"),
    "colon": ("bfloat16", "a: b", ":7 a colon stands where none may"),
    "no colon": ("    dtype: bfloat16", "    dtype", ":8 a line has no colon"),
    "indentation": ("    dtype", "   dtype", ":7 the indentation does not fit"),
    "quote": ('contains: "4"', "contains: '4", ":10 a quote or a bracket is opened here and never closed"),
    "quote that ends at another": (
        "bfloat16",
        '"bfloat16',
        ":10 the indentation does not fit the lines above, or above a colon is missing or a quote not closed",
    ),
    "bracket": ('contains: "4"}', 'contains: "4"', ":10 a"),
    "at sign": ("bfloat16", "@b", ":7 a character that no text may begin with"),
    "alias": ("bfloat16", "*b", ":7 an alias (*) that nothing defines"),
    "merge": ("    dtype", "    <<: {a: b}\n    dtype", ":7 engine: << can not be a key"),
    "tag": (
        "bfloat16",
        "!!python/object/apply:os.system [true]",
        ":7 engine.dtype: the tag !!python/object/apply:os.system is not used here",
    ),
    "own tag": ("bfloat16", "!env X", ":7 engine.dtype: the tag !env is not used here"),
    "binary": ("bfloat16", "!!binary aGFsbG8=", ":7 engine.dtype: the tag !!binary is not used here"),
    "no truth value": ("bfloat16", "!!bool perhaps", ":7 engine.dtype: perhaps is neither true nor false"),
    "key that is a number": ("    dtype", "    1: a\n    dtype", ":7 engine: 1 can not be a key"),
    "key that is a list": ("    dtype", "    ? [a]\n    : b\n    dtype", ":7 engine: a list or a mapping can not be a key"),
    "template": ("hf://Qwen", '"{{ env.ORG }}"', ":4"),
    "quoted template": (
        "hf://Qwen/Qwen3-0.6B",
        '"{{ env.WEIGHTS }}"',
        ":4 weights: {{ begins a template, and templates are not filled in here",
    ),
    "bare template": ("hf://Qwen/Qwen3-0.6B", "{{ weights }}", ":4 weights: {{ begins a template"),
    "template block": ("2 + 2?", "{% if a %}", ":10 acceptance.golden[0].prompt: {% begins a template"),
    "escape of nothing": ('"4"', '"\\U00110000"', ":10 has an escape or a number that stands for nothing"),
    "half a character": ('"4"', '"\\ud800"', ":10 acceptance.golden[0].contains: has a character that can not be sent"),
    "escaped NUL": ('"4"', '"\\0"', ":10 acceptance.golden[0].contains: has a character that can not be sent"),
    "control character": ("bfloat16", "bfloat16\x1b[0m", ":7 has a control character (\\x1b)"),
    "two documents": (GOOD, GOOD + "---\n" + GOOD, ":11 more than one document"),
    "other version of YAML": (GOOD, "%YAML 9.9\n---\n" + GOOD, ":1 is not YAML"),
    "wrong type": (
        "components.Model",
        "components.Modell",
        ":1 type: must be llm_pipeline.components.Model, got llm_pipeline.components.Modell",
    ),
    "third key": ("attributes:", "atributes: {}\nattributes:", ":2 atributes: unknown key; did you mean attributes?"),
    "attribute at the top": ("attributes:", "weights: a\nattributes:", ":2 weights: unknown key; it belongs directly under attributes"),
    "no type": ("type: llm_pipeline.components.Model\n", "", " type: is missing; must be llm_pipeline.components.Model"),
    "attributes are text": (GOOD, "type: llm_pipeline.components.Model\nattributes: a\n", ":2 attributes: must be a mapping"),
    "attributes are nothing": (GOOD, "type: llm_pipeline.components.Model\nattributes:\n", ":2 attributes: must be a mapping"),
    "no attributes": (GOOD, "type: llm_pipeline.components.Model\n", " attributes: is missing"),
    "list": (GOOD, "- a\n", ":1 must be a mapping with the keys type and attributes"),
    "text": (GOOD, "hallo\n", ":1 must be a mapping"),
    "empty": (GOOD, "", " is empty"),
    "comments only": (GOOD, "# later\n", " is empty"),
    "absolute template": (
        "    dtype",
        "    chat_template: /etc/hosts\n    dtype",
        ":7 engine.chat_template: must be a path relative to this file",
    ),
    "template file": ("    dtype", "    chat_template: no.jinja\n    dtype", ":7 engine.chat_template: no.jinja does not exist"),
    "wrong name": ("  cluster", "  name: Llama\n  cluster", ":3 name: must be a small letter"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_wrong_file_is_told_with_line_and_key(root: Path, kind: str) -> None:
    """In our own words, with a next step; nothing of pydantic's or PyYAML's classes."""
    old, new, told = EDITS[kind]
    assert old in GOOD
    found = problem(root, GOOD.replace(old, new))

    assert found.what.startswith(SHOWN + told)
    assert found.next == f"correct {SHOWN}, then: llm-pipeline up llama"
    assert not re.search(r"Input should|Value error|pydantic|Traceback|yaml\.[a-z]+:", found.text())


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (GOOD.encode("utf-16"), " is written in UTF-16; save it as UTF-8"),
        (GOOD.encode("utf-16-be"), ":1 has a control character (\\x00); remove it or save as UTF-8"),
        (GOOD.replace("2 + 2?", "Wie heißt du?").encode("latin-1"), ":10 is not UTF-8 (byte 0xdf); save it as UTF-8"),
        (GOOD.encode() + b"\0", ":11 has a control character (\\x00)"),
        (b"\xff", ":1 is not UTF-8"),
    ],
)
def test_another_encoding_is_told_as_such(root: Path, raw: bytes, told: str) -> None:
    """With the line of the first wrong byte where there are lines."""
    assert problem(root, raw).what.startswith(SHOWN + told)


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()])
def test_marks_of_other_editors_are_no_error(root: Path, raw: bytes) -> None:
    """A byte order mark and the line ends of Windows."""
    put(root, raw)

    assert load_tree(root).models["llama"].at("engine.dtype") == f"{SHOWN}:7"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x" * 300_000, " is larger than 256 KiB"),
        ("a: " + "[" * 200_000, ":1 is nested more than 20 levels deep"),
        ("\n".join(" " * n + "a:" for n in range(400)), "is nested more than 20 levels deep"),
        ("a: &a [*a]", ":1 has aliases (*) that lead in a circle"),
        ("a: &a [" + "x," * 99 + "]\nb: &b [" + "*a," * 99 + "]\nc: &c [" + "*b," * 99 + "]\nd: [" + "*c," * 99 + "]", "has aliases (*)"),
    ],
)
def test_a_bomb_is_refused_quickly(root: Path, text: str, told: str) -> None:
    """A file that grows when it is read must not take the others' automation with it."""
    began = time.monotonic()
    found = problem(root, text)

    assert told in found.what
    assert time.monotonic() - began < 10


def test_an_ordinary_alias_is_followed(root: Path) -> None:
    """Anchors are YAML's way not to say a thing twice, and harmless while they stay small."""
    put(root, GOOD.replace("4096", "&n 4096").replace("dtype: bfloat16", "max_num_seqs: *n"))

    assert load_tree(root).models["llama"].spec.engine.max_num_seqs == 4096


def test_several_flaws_are_told_together_up_to_five(root: Path) -> None:
    """In the order of their lines, the first one in front."""
    keys = "".join(f"  key{number}: 1\n" for number in range(7))
    found = problem(root, GOOD.replace("bfloat16", "bf16") + keys)
    told = (found.why or "").splitlines()

    assert found.what.startswith(f"{SHOWN}:7 engine.dtype")
    assert told[0] == "also line 11 key0: unknown key"
    assert told[3:] == ["also line 14 key3: unknown key", "and 3 more"]


def test_a_model_among_the_clusters_is_told_where_it_belongs(root: Path) -> None:
    """The type says what it is, the folder where it is looked for."""
    put(root, GOOD, "clusters/llama")
    (broken,) = load_tree(root).broken

    assert broken.kind == "cluster"
    assert (
        broken.problem.what
        == "assets/clusters/llama/defs.yaml:1 type: must be llm_pipeline.components.Cluster, got llm_pipeline.components.Model"
    )
    assert broken.problem.why == "a file of that type belongs under assets/models"


def test_an_endpoint_without_a_router_is_refused_on_this_machine(tmp_path: Path) -> None:
    """With file, line, key and why: there is nothing else that could answer."""
    put(tmp_path, "type: llm_pipeline.components.Cluster\nattributes:\n  platform: local\n  endpoint:\n    via: service\n", "clusters/local")

    (broken,) = load_tree(tmp_path).broken

    assert broken.problem.what.startswith("assets/clusters/local/defs.yaml:5 endpoint.via: must be router on the platform local: this machine has no Services")
    assert broken.problem.log == "5 |     via: service"


def link_to_itself(file: Path) -> None:
    file.symlink_to(file)


def link_to_nothing(file: Path) -> None:
    file.symlink_to("gone.yaml")


def other_ending(file: Path) -> None:
    file.with_suffix(".yml").write_text(GOOD)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Path.mkdir, "is a folder, not a file"),
        (link_to_itself, "can not be read: Too many levels of symbolic links"),
        (link_to_nothing, "does not exist, or leads to nothing"),
        (other_ending, "is missing; rename defs.yml beside it"),
        (os.mkfifo, "is not a file"),
    ],
)
def test_something_that_is_no_readable_file_is_told(root: Path, make: object, told: str) -> None:
    """None of them hangs (a pipe would for ever), and none vanishes silently."""
    file = root / "assets/models/llama/defs.yaml"
    file.parent.mkdir(parents=True)
    make(file)  # type: ignore[operator]

    assert only_problem(load_tree(root)).what == f"{SHOWN} {told}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(root: Path) -> None:
    """It is declared, so that passing it over would make a wanted model look undeclared."""
    put(root, GOOD).chmod(0)

    assert only_problem(load_tree(root)).what == f"{SHOWN} can not be read: Permission denied"


def test_a_folder_that_leads_to_itself_is_told(root: Path) -> None:
    """Passed over, the model would vanish silently."""
    (root / "assets/models").mkdir()
    (root / "assets/models/llama").symlink_to("llama")

    assert "Too many levels" in only_problem(load_tree(root)).what


@pytest.mark.parametrize("name", ["Llama", "my-model", "endpoint", "x" * 31, "a\nb", os.fsdecode(b"a\xff")])
def test_a_folder_whose_name_is_no_name_is_told(root: Path, name: str) -> None:
    """Also where the name itself can not be printed."""
    put(root, GOOD, f"models/{name}")
    (broken,) = load_tree(root).broken

    assert "the folder's name" in broken.problem.what
    assert broken.problem.text().isprintable() or broken.problem.text().count("\n") == 1
    broken.problem.text().encode()


def test_a_name_inside_replaces_the_folder_s(root: Path) -> None:
    """Only to differ from it; the paths stay the folder's."""
    put(root, GOOD.replace("  cluster", "  name: other\n  cluster"), "models/My-Folder")

    assert load_tree(root).models["other"].path == "assets/models/My-Folder/defs.yaml"


def test_the_chat_template_is_read_from_its_file(root: Path) -> None:
    """The text is what the engine uses and what the release hash has to see; templates in it are its own business."""
    file = put(root, GOOD.replace("    dtype", "    chat_template: chat.jinja\n    dtype"))
    (file.parent / "chat.jinja").write_text("{{ messages }}")

    assert load_tree(root).models["llama"].spec.engine.chat_template == "{{ messages }}"


def test_one_file_can_be_read_by_itself(root: Path) -> None:
    """For whoever has just written it; its error is the same."""
    file = put(root, GOOD.replace("local", "elsewhere"))
    bad = put(root, "a: b", "models/bad")

    assert read(ModelSpec, file, root).spec.cluster == "elsewhere"
    assert read(ClusterSpec, root / "assets/clusters/local/defs.yaml", root).spec.platform == "local"
    with pytest.raises(ConfigError, match=r"^assets/models/bad/defs\.yaml type: is missing"):
        read(ModelSpec, bad, root)


@pytest.mark.parametrize(
    ("word", "options", "found"),
    [
        ("max_model_length", ["max_model_len", "max_num_seqs"], "max_model_len"),
        ("Max-Model-Len", ["max_model_len", "max_num_seqs"], "max_model_len"),
        ("stauts", ["status", "up", "down"], "status"),
        ("zebra", ["status", "up"], None),
        ("x", [], None),
        ("y" * 1_000_000, ["status"], None),
    ],
)
def test_the_nearest_word_is_found_when_one_is_near(word: str, options: list[str], found: str | None) -> None:
    """A wrong guess is worse than none."""
    assert nearest(word, options) == found


def test_the_shipped_declarations_are_right() -> None:
    """The keys of the contract, with the values that it shows."""
    tree = load_tree(ROOT)
    demo, qwen = tree.models["demo"].spec, tree.models["qwen3_0_6b"].spec

    assert tree.broken == ()
    assert tree.clusters["local"].spec.platform == "local"
    assert (demo.cluster, demo.autostart, demo.weights, demo.served_name) == ("local", True, "file://weights/v1", "demo")
    assert (demo.engine.kind, demo.engine.max_model_len, demo.engine.max_num_seqs, demo.engine.dtype) == ("ray", 512, 4, "bfloat16")
    assert "What is a release?" in [golden.prompt for golden in demo.acceptance.golden]
    assert (qwen.autostart, qwen.weights, qwen.served_name) == (False, "hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")
