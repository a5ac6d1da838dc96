"""The product's code and its sources of names: no shell, no pickle, and nothing that gets out of its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from infra.settings import ROOT

SHELLS = {
    "os.system", "os.popen", "os.spawnl", "os.spawnlp", "os.spawnv", "os.spawnvp", "os.posix_spawn", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn",
    "asyncio.create_subprocess_shell", "commands.getoutput", "eval", "exec",
}  # fmt: skip
UNPICKLERS = {"pickle.load", "pickle.loads", "torch.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load", "tarfile.open", "shutil.unpack_archive"}
"""Archives count: the product reads none."""


def product() -> Iterator[tuple[Path, ast.AST]]:
    """Every node of the product's code."""
    files = [path for folder in ("infra", "assets", "llm_pipeline") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path.relative_to(ROOT), node


def calls(names: set[str]) -> list[str]:
    """Where one of these is called."""
    return [f"{path}:{node.lineno} {ast.unparse(node.func)}" for path, node in product() if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


def test_no_shell_is_ever_started() -> None:
    """Names from YAML reach programs as arguments, and there is no shell that they could speak to."""
    asked = [
        f"{path}:{node.lineno}" for path, node in product() if isinstance(node, ast.Call)
        for keyword in node.keywords if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]  # fmt: skip

    assert asked == []
    assert calls(SHELLS) == []


def test_every_command_line_is_a_list() -> None:
    """A string would be split, or given to a shell, by somebody."""
    started = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "subprocess.check_call", "spawn"}
    found = [(path, node) for path, node in product() if isinstance(node, ast.Call) and ast.unparse(node.func) in started]
    loose = [f"{path}:{node.lineno}" for path, node in found if isinstance(node.args[0], ast.Constant | ast.JoinedStr)]

    assert len(found) >= 5
    assert loose == []
    assert [f"{path}:{node.lineno}" for path, node in found if _says(node, "sh", "bash", "-c")] == []


def test_nothing_is_unpickled_and_no_archive_unpacked() -> None:
    """Reading a pickle runs it; an archive can name files outside its folder. YAML is read by the safe loader."""
    assert calls(UNPICKLERS) == []


def _says(call: ast.Call, *words: str) -> bool:
    listed = call.args[0].elts if isinstance(call.args[0], ast.List | ast.Tuple) else []
    return any(isinstance(one, ast.Constant) and one.value in words for one in listed)
