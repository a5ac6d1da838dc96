"""The local image: a virtual environment made from a lock. Real pip, real environments, tiny wheels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import CapacityError, ConfigError, PipelineError, Transient, Withdrawn
from infra.local import image_build
from infra.local.image import LocalImage
from infra.local.image_build import Recipe
from infra.local.processes import mark_of, members
from infra.platform import Release
from infra.settings import ROOT
from infra.specs import ModelSpec
from infra.states import ImageState
from infra.waiting import Phase, Progress
from infra.weights import Manifest
from tests.doubles.package_index import Index

Built = tuple[LocalImage, ImageState, list[Phase]]

CPU = ModelSpec.model_validate({"name": "demo", "cluster": "here", "weights": "file://weights"})
GPU = ModelSpec.model_validate({"name": "demo", "cluster": "here", "weights": "file://weights", "resources": {"gpu": 1}})


# ---------------------------------------------------------------- the digest


def digest_for(folder: Path, lock: str) -> str:
    """The digest of a lock with this text."""
    (folder / "cpu.lock").write_text(lock)
    return LocalImage(folder, "", serving=folder).resolve(CPU, Progress())


def test_the_digest_changes_with_a_version_in_the_lock(tmp_path: Path) -> None:
    """Another version is another image."""
    assert digest_for(tmp_path, "torch==1.0\ntiny==1.0\n") != digest_for(tmp_path, "torch==1.0\ntiny==1.1\n")


def test_the_digest_does_not_change_with_comments_or_order(tmp_path: Path) -> None:
    """What installs the same packages must not restart a model."""
    plain = digest_for(tmp_path, "torch==1.0\ntiny==1.0\n")

    assert digest_for(tmp_path, "# why\n\ntiny==1.0  # pinned\ntorch==1.0\n") == plain


def test_the_digest_changes_with_python_and_with_the_platform() -> None:
    """Compiled packages fit one Python and one platform."""
    names = {image_build.digest(["a==1"], python, platform) for python in ("cpython-3.11", "cpython-3.12") for platform in ("x", "y")}

    assert len(names) == 4
    assert all(name.startswith("local:") and len(name) == 22 for name in names)


def test_a_model_with_gpus_gets_the_image_of_the_gpu_lock(tmp_path: Path) -> None:
    """The flavour follows from the resources, and nothing is made by asking."""
    (tmp_path / "cpu.lock").write_text("torch==1.0\n")
    (tmp_path / "gpu.lock").write_text("torch==2.0\n")
    images = LocalImage(tmp_path / "cache", "", serving=tmp_path)

    assert images.resolve(CPU, Progress()) == image_build.digest(["torch==1.0"])
    assert images.resolve(GPU, Progress()) == image_build.digest(["torch==2.0"])
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- a build that succeeds


@pytest.fixture(scope="module", autouse=True)
def only_our_index() -> Iterator[None]:
    """This machine's pip configuration stays out."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        yield


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """As in the world: the ordinary index has torch's CUDA build only, another one the CPU build."""
    made = Index(tmp_path_factory.mktemp("index"))
    made.add("ordinary", "torch", "1.0", "class version: cuda = '13'")
    made.add("ordinary", "tiny", "1.0", "import sys\ndef main(): print('tiny', sys.prefix)", script="tiny-tool")
    made.add("ordinary", "broken", "1.0", "import a_module_that_nobody_has")
    made.add("pytorch", "torch", "1.0+cpu", "class version: cuda = None")
    yield made
    made.close()


def images_of(index: Index, folder: Path, lock: str, **changes: object) -> LocalImage:
    """Images of a flavour `cpu` that this lock makes from the index."""
    folder.mkdir(exist_ok=True)
    (folder / "cpu.lock").write_text(lock)
    recipe = Recipe("cpu", folder / "cpu.lock", check=("tiny",), options=("--index-url", index.url("ordinary")))
    return LocalImage(folder / "cache", index.url("pytorch"), flavours={"cpu": replace(recipe, **changes)})  # type: ignore[arg-type]


def release_of(images: LocalImage) -> Release:
    """A release that wants the image of today's lock."""
    return Release(CPU, "r1", Manifest(()), images.resolve(CPU, Progress()), "file://weights")


def left(folder: Path) -> list[str]:
    """What is in the folder of images, without locks."""
    return sorted(p.name for p in (folder / "cache" / "images").iterdir() if not p.name.startswith(".lock-"))


@pytest.fixture(scope="module")
def built(index: Index, only_our_index: None, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An image with torch from the second index, and what was told while it was built."""
    told: list[Phase] = []
    images = images_of(
        index, tmp_path_factory.mktemp("built") / "x", "torch==1.0\ntiny==1.0\n", torch="torch==1.0+cpu", check=("torch", "tiny")
    )
    return images, images.apply(release_of(images), Progress(report=told.append)), told


def test_a_build_makes_an_image_that_says_what_is_in_it(built: Built) -> None:
    """The state carries versions, size and time, and says that something changed."""
    _, state, _ = built

    assert state.changed
    assert state.versions["tiny"] == "1.0"
    assert state.size > 1_000_000, "it holds pip at least"
    assert state.seconds > 0


def test_the_cpu_build_of_torch_comes_from_the_second_index_when_pip_has_none(built: Built) -> None:
    """The ordinary index had torch 1.0 too: the CUDA build, which is not taken."""
    assert built[1].versions["torch"] == "1.0+cpu"
    assert built[1].versions["cuda"] == "none"


def test_an_image_has_its_bytecode(built: Built) -> None:
    """An engine writes none of its own: without it every start would compile for half a minute."""
    place = Path(built[1].where)

    (module,) = place.glob("lib/python*/site-packages/tiny.py")

    assert list(module.parent.glob("__pycache__/tiny.*.pyc"))


def test_the_moved_image_runs_from_its_place(built: Built) -> None:
    """Scripts name their Python by full path: it must be the final one."""
    place = Path(built[1].where)

    said = subprocess.run([place / "bin" / "tiny-tool"], capture_output=True, text=True, check=True).stdout

    assert said.strip() == f"tiny {place}"
    assert not [p.name for p in (place / "bin").iterdir() if not p.is_symlink() and b".building-" in p.read_bytes()]


def test_only_the_image_is_left_and_no_downloads(built: Built) -> None:
    """Nothing beside it, and no temporary files in it."""
    place = Path(built[1].where)

    assert [p.name for p in place.parent.iterdir() if not p.name.startswith(".lock-")] == [place.name]
    assert not (place / "tmp").exists()


def test_an_image_that_is_there_is_taken_as_it_is(built: Built) -> None:
    """The second model of a flavour waits for nothing and changes nothing."""
    images, state, _ = built

    again = images.apply(release_of(images), Progress(timeout=0.5))

    assert again == replace(state, changed=False)
    assert images.observe(release_of(images)) == again
    assert images.kept() == (again,)


def test_a_build_is_told_as_one_phase_step_by_step(built: Built) -> None:
    """From the empty environment on, there is news."""
    told = built[2]

    assert {phase.name for phase in told} == {"image"}
    assert told[0].detail == "an empty environment"
    assert len({phase.detail for phase in told}) > 1


def test_the_lines_of_pip_become_lines_for_people(tmp_path: Path) -> None:
    """Wheels lose their tags, downloads show their size, and an unfinished line is not read."""
    log = tmp_path / "build.log"
    log.write_text(
        "Collecting aiohttp==3.14.5 (from -r cpu.lock (line 8))\n  Downloading aiohttp-3.14.5-cp311-cp311-linux_x86_64.whl (1.9 MB)\n"
    )
    news = image_build._News(log, 0, 173, "asking")

    assert news.line() == "1 of 173 packages: downloading aiohttp-3.14.5 (1.9 MB)"
    with log.open("a") as file:
        file.write("Processing /wheels/numpy-2.3.5-cp311-cp311-linux_x86_64.whl (from -r cpu.lock (line 9))\nCollecti")
    assert news.line() == "2 of 173 packages: numpy-2.3.5"
    with log.open("a") as file:
        file.write("ng b==1\nInstalling collected packages: a, b\n")
    (tmp_path / "lib" / "python3.11" / "site-packages" / "a-1.dist-info").mkdir(parents=True)
    assert news.line() == "1 of 173 packages are installed"


# ---------------------------------------------------------------- a build that fails


def test_a_package_that_no_index_has_leaves_nothing_and_shows_what_pip_said(index: Index, tmp_path: Path) -> None:
    """Permanent: trying again can not help. The last lines are pip's own."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\nmissing==7.0\n")

    with pytest.raises(ConfigError) as caught:
        images.apply(release_of(images), Progress())

    assert "pip finds no missing==7.0" in caught.value.problem.what
    assert "No matching distribution found for missing==7.0" in (caught.value.problem.log or "")
    assert left(tmp_path / "x") == []


def test_an_image_whose_engine_does_not_import_leaves_nothing_and_shows_the_last_lines(index: Index, tmp_path: Path) -> None:
    """An install that pip is content with is no image yet."""
    images = images_of(index, tmp_path / "x", "broken==1.0\n", check=("broken",))

    with pytest.raises(ConfigError) as caught:
        images.apply(release_of(images), Progress())

    assert "does not import" in caught.value.problem.what
    assert "a_module_that_nobody_has" in (caught.value.problem.log or "")
    assert left(tmp_path / "x") == []


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("connection broken by 'NewConnectionError'\nERROR: No matching distribution found for tiny==1.0", Transient, "does not reach"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", CapacityError, "disk is full"),
        ("The virtual environment was not created successfully because ensurepip is not available.", ConfigError, "virtual environments"),
        ("ERROR: No matching distribution found for vllm==0.32.0", ConfigError, "vllm==0.32.0"),
        ("ERROR: something that nobody foresaw", ConfigError, "a step failed"),
    ],
)
def test_each_way_to_fail_has_its_error(said: str, kind: type[PipelineError], words: str) -> None:
    """What can pass is tried again; a cut network is not taken for a missing package."""
    cause, found = image_build._cause(said)

    error = image_build._failed(Recipe("cpu", Path("cpu.lock")), image_build._Step(1, said, cause, found))

    assert type(error) is kind
    assert words in error.problem.what
    assert error.problem.next
    assert error.problem.log


def test_a_step_that_the_system_kills_may_be_tried_again() -> None:
    """A build that ran out of memory is nobody's mistake."""
    error = image_build._failed(Recipe("cpu", Path("cpu.lock")), image_build._Step(-9, "Installing", image_build.UNKNOWN))

    assert type(error) is Transient
    assert "signal 9" in (error.problem.why or "")


@pytest.mark.parametrize(
    ("flavour", "torch", "versions", "wrong"),
    [
        ("cpu", "torch==1.0+cpu", {"torch": "1.0+cpu", "cuda": "none"}, None),
        ("cpu", "torch==1.0+cpu", {"torch": "1.0", "cuda": "13"}, "torch is 1.0, not 1.0+cpu"),
        ("gpu", None, {"torch": "1.0", "cuda": "13"}, None),
        ("gpu", None, {"torch": "1.0+cpu", "cuda": "none"}, "torch 1.0+cpu was built without CUDA"),
    ],
)
def test_the_other_flavours_torch_is_noticed(flavour: str, torch: str | None, versions: dict[str, str], wrong: str | None) -> None:
    """A folder of wheels that pip looks into may hold the wrong build under the right version."""
    assert image_build._wrong_torch(Recipe(flavour, Path("lock"), torch), versions) == wrong


def test_a_disk_without_room_is_told_with_numbers_before_anything_is_made(index: Index, tmp_path: Path) -> None:
    """Not after ten minutes of downloads."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\n", room=2**60)

    with pytest.raises(CapacityError, match=r"needs 1073741824.0 GiB, .* has [0-9.]+ GiB free"):
        images.apply(release_of(images), Progress())

    assert left(tmp_path / "x") == []


def test_a_library_that_the_system_lacks_is_told_before_anything_is_installed(index: Index, tmp_path: Path) -> None:
    """The engine would only crash with it, much later."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\n", libraries=("libnobody.so.7",))

    with pytest.raises(ConfigError, match=r"libnobody\.so\.7"):
        images.apply(release_of(images), Progress())

    assert left(tmp_path / "x") == []


def test_an_image_of_an_older_lock_can_not_be_built_again(index: Index, tmp_path: Path) -> None:
    """A rollback to it fails at once and says both digests."""
    old = release_of(images_of(index, tmp_path / "x", "tiny==0.9\n"))
    images = images_of(index, tmp_path / "x", "tiny==1.0\n")

    with pytest.raises(ConfigError) as caught:
        images.apply(old, Progress())

    assert old.image in caught.value.problem.what
    assert images.resolve(CPU, Progress()) in (caught.value.problem.why or "")


def test_an_image_of_another_platform_is_refused(tmp_path: Path) -> None:
    """An OCI reference never becomes a path on this disk."""
    images = LocalImage(tmp_path, "")

    with pytest.raises(ConfigError, match="not an image of this machine"):
        images.observe(Release(CPU, "r1", Manifest(()), "registry.example.com/../../etc", "file://weights"))


# ---------------------------------------------------------------- interrupted, shared, removed


def test_a_withdrawn_model_ends_its_build_within_two_seconds(index: Index, tmp_path: Path) -> None:
    """No process and no folder stays."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\n")
    stopped: list[float] = []

    def stop() -> None:
        if list((tmp_path / "x").glob("cache/images/.building-*/bin/python")):
            stopped.append(time.monotonic())
            raise Withdrawn("down")

    with pytest.raises(Withdrawn):
        images.apply(release_of(images), Progress(stop=stop))

    assert time.monotonic() - stopped[0] < 2
    assert left(tmp_path / "x") == []
    assert not members(mark_for(images, tmp_path / "x"))


def mark_for(images: LocalImage, folder: Path) -> str:
    """What the processes of a build carry."""
    return mark_of(folder / "cache" / "images", "image", images.resolve(CPU, Progress()).removeprefix("local:"))


APPLY = """
import sys
from pathlib import Path
from infra.local.image import LocalImage
from infra.local.image_build import Recipe
from infra.platform import Release
from infra.specs import ModelSpec
from infra.waiting import Progress
from infra.weights import Manifest
folder, index = Path(sys.argv[1]), sys.argv[2]
recipe = Recipe("cpu", folder / "cpu.lock", check=("tiny",), options=("--index-url", index))
images = LocalImage(folder / "cache", "", flavours={"cpu": recipe})
spec = ModelSpec.model_validate({"name": "other", "cluster": "here", "weights": "file://weights"})
print(images.apply(Release(spec, "r1", Manifest(()), images.resolve(spec, Progress()), "file://weights"), Progress()).changed)
"""


def elsewhere(index: Index, folder: Path) -> subprocess.Popen[str]:
    """Another process, of another home, that wants the same image."""
    argv = [sys.executable, "-c", APPLY, str(folder), index.url("ordinary")]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def wait_for(condition: Callable[[], object]) -> None:
    """Looks until it is so; 60 s at most."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_after_a_kill_two_processes_at_once_build_once(index: Index, tmp_path: Path) -> None:
    """The killed builder's programs and folder go; then one builds, and the other says for whom it waits."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\n")
    killed = elsewhere(index, tmp_path / "x")
    wait_for(lambda: list((tmp_path / "x").glob("cache/images/.building-*/bin/python")))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    orphans = members(mark_for(images, tmp_path / "x"))
    assert orphans, "pip outlives its builder: that is what has to be cleaned"
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)  # so that they don't end by themselves

    first = elsewhere(index, tmp_path / "x")
    wait_for(lambda: list((tmp_path / "x").glob(f"cache/images/.building-*-{first.pid}")))
    survivors = orphans & members(mark_for(images, tmp_path / "x"))
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    told: list[str] = []
    second = images.apply(release_of(images), Progress(report=lambda phase: told.append(phase.detail)))

    assert not survivors
    assert first.communicate()[0].strip() == "True"
    assert not second.changed
    assert any(f"process {first.pid} builds it" in line for line in told)
    assert left(tmp_path / "x") == [second.digest.removeprefix("local:")]


def by_hand(images: LocalImage, folder: Path) -> Path:
    """An image folder without the minute that a build takes."""
    place = folder / "cache" / "images" / images.resolve(CPU, Progress()).removeprefix("local:")
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / "image.json").write_text('{"bytes": 7, "seconds": 1.5, "versions": {"tiny": "1.0"}}')
    return place


def test_a_folder_without_marker_or_python_is_no_image(index: Index, tmp_path: Path) -> None:
    """Half a copy, or a Python that was removed from the machine, must not be started."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\n")
    place = by_hand(images, tmp_path / "x")
    assert images.observe(release_of(images)) is not None

    (place / "bin" / "python").unlink()
    assert images.observe(release_of(images)) is None
    (place / "bin" / "python").symlink_to("/nowhere/python")
    assert images.observe(release_of(images)) is None
    (place / "bin" / "python").unlink()
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / "image.json").unlink()
    assert images.observe(release_of(images)) is None


def test_a_deleted_image_is_absent_and_may_be_deleted_again(index: Index, tmp_path: Path) -> None:
    """Its folder goes, others stay."""
    images = images_of(index, tmp_path / "x", "tiny==1.0\n")
    release = release_of(images)
    images.delete(release, Progress())
    by_hand(images, tmp_path / "x")
    other = tmp_path / "x" / "cache" / "images" / ("0" * 16)
    other.mkdir()

    images.delete(release, Progress())
    images.delete(release, Progress())

    assert images.observe(release) is None
    assert left(tmp_path / "x") == [other.name]
