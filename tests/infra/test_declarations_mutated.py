"""The shipped files, spoilt in a thousand ways: each is told clearly or still means something, and nothing else ever happens."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.declarations import Declarations, load_tree
from infra.specs import ClusterSpec, ModelSpec

ROOT = Path(__file__).parents[2]
CLUSTER = (ROOT / "assets/clusters/local/defs.yaml").read_bytes()
SHIPPED = {
    "clusters/lab": CLUSTER,
    "models/demo": (ROOT / "assets/models/demo/defs.yaml").read_bytes(),
    "models/qwen": (ROOT / "assets/models/qwen3_0_6b/defs.yaml").read_bytes(),
}
WITHOUT_LINE = r"is empty|is written in UTF-16|is larger than 256 KiB|type: is missing|attributes: is missing|name: \w+ is also the name"
"""What is wrong with a file as a whole, or with its folder's name. Everything else stands somewhere."""

JARGON = re.compile(r"Input should|Value error|validation|pydantic|Traceback|Error\(|tag:yaml\.org,2002:(str|int|map|seq)|NoneType|<class")

WORDS = """
0 -1 1 3 17 999999999999 99999999999999999999999999 1.5 .5 1e3 1.0e+400 .nan -.inf 010 0x10 0b1 1:30 1_000
true false yes "false" 'on' null ~ "" '' [] {} [a] [1,2] "512" 4Gi '4Gi' 2024-01-01 2024-01-01T00:00:00Z text é 💥
"a\\u0000b" "\\ud800" "\\U00110000" *alias &anchor !!int !!python/name:os.system !own << = @ ` % | > - ? : # (( "(("
{{a}} "{{a}}" '{%' local lab hf://a/b s3://b file:// ../x
"""
VALUES = st.sampled_from([*WORDS.split(), "", "{a: b}", "{min: 3, max: 2}", "a: b", "\x85", "\u2028", "a #b"])
KEYS = st.sampled_from(
    [*ModelSpec.model_fields, *ClusterSpec.model_fields, "max_model_len", "extra", "golden", "foo", "Engine", "on", "1", "a b", "<<"]
)
Mutation = Callable[[bytes], bytes]


def on_lines(change: Callable[[list[str], int], list[str]], where: float) -> Mutation:
    def mutate(raw: bytes) -> bytes:
        lines = raw.decode(errors="surrogateescape").split("\n")
        return "\n".join(change(lines, int(where * (len(lines) - 1)))).encode(errors="surrogatepass")

    return mutate


def new_value(value: str, where: float) -> Mutation:
    return on_lines(
        lambda lines, at: [*lines[:at], re.sub(r"(:\s).*", lambda found: found[1] + value, lines[at], count=1), *lines[at + 1 :]], where
    )


def new_key(key: str, where: float) -> Mutation:
    return on_lines(
        lambda lines, at: [*lines[:at], re.sub(r"^(\s*(- )?)\w+", lambda found: found[1] + key, lines[at]), *lines[at + 1 :]], where
    )


def extra_line(key: str, value: str, indent: int, where: float) -> Mutation:
    return on_lines(lambda lines, at: [*lines[:at], f"{' ' * indent}{key}: {value}", *lines[at:]], where)


def indented(by: str, where: float) -> Mutation:
    return on_lines(lambda lines, at: [*lines[:at], by + lines[at], *lines[at + 1 :]], where)


def twice(where: float) -> Mutation:
    return on_lines(lambda lines, at: [*lines[: at + 1], *lines[at:]], where)


def without_line(where: float) -> Mutation:
    return on_lines(lambda lines, at: [*lines[:at], *lines[at + 1 :]], where)


def swapped(where: float) -> Mutation:
    return on_lines(lambda lines, at: [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]], where)


def cut(where: float) -> Mutation:
    return lambda raw: raw[: int(where * len(raw))]


def with_bytes(new: bytes, where: float) -> Mutation:
    return lambda raw: raw[: int(where * len(raw))] + new + raw[int(where * len(raw)) :]


def without_char(where: float) -> Mutation:
    return lambda raw: raw[: int(where * len(raw))] + raw[int(where * len(raw)) + 1 :]


def encoded(encoding: str) -> Mutation:
    return lambda raw: raw.decode(errors="replace").replace("demo", "démo").encode(encoding, errors="replace")


def huge(size: int) -> Mutation:
    return lambda raw: raw + b"#" * size


def again(between: bytes) -> Mutation:
    return lambda raw: raw + between + raw


WHERE = st.floats(0, 1)
MUTATIONS = st.one_of(
    st.builds(new_value, VALUES, WHERE),
    st.builds(new_value, VALUES, WHERE),
    st.builds(new_key, KEYS, WHERE),
    st.builds(extra_line, KEYS, VALUES, st.integers(0, 6), WHERE),
    st.builds(indented, st.sampled_from(["\t", " ", "  ", "- ", "# ", "\u00a0"]), WHERE),
    st.builds(twice, WHERE),
    st.builds(without_line, WHERE),
    st.builds(swapped, WHERE),
    st.builds(cut, WHERE),
    st.builds(
        with_bytes,
        st.binary(min_size=1, max_size=3) | st.sampled_from([b"\0", b"\t", b"'", b'"', b"{", b"]", b": ", b"\xff", b"\r", b"*"]),
        WHERE,
    ),
    st.builds(without_char, WHERE),
    st.builds(encoded, st.sampled_from(["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp037"])),
    st.builds(huge, st.sampled_from([1_000, 300_000])),
    st.builds(again, st.sampled_from([b"", b"\n---\n", b"\n...\n"])),
)


@settings(max_examples=1000, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(folder=st.sampled_from(sorted(SHIPPED)), mutations=st.lists(MUTATIONS, min_size=1, max_size=3))
def test_a_spoilt_file_gives_a_clear_error_or_a_valid_spec(folder: str, mutations: list[Mutation]) -> None:
    """With the file, and with a line where there is one; never another exception."""
    raw = SHIPPED[folder]
    for mutate in mutations:
        raw = mutate(raw)

    check(raw, folder)


@settings(max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.text("ab0:- \n\t#'\"{}[],&*!|>%@`?=<~.\\uU1e+é\x85", max_size=60).map(str.encode) | st.binary(max_size=40))
def test_noise_gives_a_clear_error(raw: bytes) -> None:
    """Nothing but a declaration is one, and YAML's odd corners raise nothing of their own."""
    check(raw, "models/demo")


def check(raw: bytes, folder: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for place, content in {"clusters/local": CLUSTER, folder: raw}.items():
            (root / "assets" / place).mkdir(parents=True)
            (root / "assets" / place / "defs.yaml").write_bytes(content)
        tree = load_tree(root)

    assert "local" in tree.clusters or any("clusters/local/" in (broken.problem.what) for broken in tree.broken)
    if len(tree.clusters) + len(tree.models) == 2:
        assert_usable(tree)
    else:
        assert_told(tree, folder, raw)


def assert_usable(tree: Declarations) -> None:
    assert tree.broken == ()
    specs = [*(cluster.spec for cluster in tree.clusters.values()), *(model.spec for model in tree.models.values())]
    for spec in specs:
        dumped = json.dumps(spec.model_dump(mode="json"), allow_nan=False)
        assert type(spec).model_validate(json.loads(dumped)) == spec


def assert_told(tree: Declarations, folder: str, raw: bytes) -> None:
    for broken in tree.broken:
        problem = broken.problem
        told = re.match(r"assets/(clusters|models)/\w+/defs\.yaml(?::(\d+))? \S", problem.what)

        assert told, problem.what
        assert told[2] or re.search(WITHOUT_LINE, problem.what), problem.what
        assert not told[2] or 1 <= int(told[2]) <= len(raw.decode(errors="replace").splitlines()) + 1, problem.what
        assert not JARGON.search(problem.text()), problem.text()
        assert problem.next
        assert all(line.isprintable() for line in problem.text().split("\n")), problem.text()
    assert f"assets/{folder}/defs.yaml" in {broken.path for broken in tree.broken}
