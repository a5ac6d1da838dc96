"""hf://: what the Hub answers, and what becomes of it when it answers badly."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import Blocked, CapacityError, ConfigError, Permanent, PipelineError, Transient
from infra.waiting import Progress
from infra.weights import Access, Seen, Source, Store, open_source, parse
from infra.weights.hub_errors import Asked, Reply, refusal
from tests.doubles.hub import Hub, git_id
from tests.doubles.model import model_files

TOKEN = "hf_abcdefghijklmnop"
FILES = model_files(rows=5000)
WEIGHTS = FILES["model.safetensors"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause between two looks is for the Hub's good, not for ours."""
    monkeypatch.setattr("infra.weights.hub.LOOK_PAUSE", 0.05)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as double:
        double.tokens.add(TOKEN)
        yield double
    assert double.unexpected == []


def source(hub: Hub, uri: str = "hf://org/tiny", allow_pickle: bool = False, **access: object) -> Source:
    wanted = replace(Access(hf_endpoint=hub.endpoint, stall_seconds=5.0), **access)  # type: ignore[arg-type]
    return open_source(parse(uri, Path("/")), wanted, allow_pickle)


def look(hub: Hub, uri: str = "hf://org/tiny", **more: object) -> Seen:
    return source(hub, uri, **more).look(Progress())  # type: ignore[arg-type]


def store(path: Path, attempts: int = 3) -> Store:
    return Store(path / "store", attempts=attempts, pause=0.01)


def four_parts(error: PipelineError) -> str:
    assert error.problem.what
    assert error.problem.why
    assert error.problem.next
    assert error.problem.log
    return error.problem.text()


def test_a_branch_is_resolved_to_a_commit_before_anything_else(hub: Hub, tmp_path: Path) -> None:
    """A branch that moves between look and fetch changes nothing: the files are those of the commit that was seen."""
    sha = hub.commit("org/tiny", FILES)
    seen = look(hub)
    hub.commit("org/tiny", model_files(seed=9))
    stored = store(tmp_path).fill(source(hub), seen, Progress())

    assert seen.revision == sha
    assert (stored.path / "model.safetensors").read_bytes() == WEIGHTS
    assert look(hub).revision != sha
    assert look(hub, f"hf://org/tiny@{sha}").manifest == seen.manifest


def test_a_commit_that_touches_no_needed_file_moves_the_revision_and_not_the_manifest(hub: Hub) -> None:
    """A README must not restart a model."""
    hub.commit("org/tiny", FILES)
    first = look(hub)
    hub.commit("org/tiny", FILES | {"README.md": b"better"})
    second = look(hub)

    assert first.manifest.digest == second.manifest.digest
    assert first.revision != second.revision


def test_only_the_files_that_the_engine_needs_are_fetched_each_with_the_digest_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    """LFS files by sha256, the others by git blob id."""
    hub.commit("org/tiny", FILES)
    seen = look(hub)
    stored = store(tmp_path).fill(source(hub), seen, Progress())
    digests = {file.path: file.digest for file in seen.manifest.files}

    assert {path.name for path in stored.path.iterdir()} == set(digests) == {n for n in FILES if n.endswith((".json", ".safetensors"))}
    assert digests["config.json"] == f"git:{git_id(FILES['config.json'])}"
    assert digests["model.safetensors"].startswith("sha256:")
    assert stored.fetched_bytes == seen.manifest.size == sum((stored.path / name).stat().st_size for name in digests)


def test_the_token_goes_to_the_hub_and_never_to_the_host_that_it_redirects_to(hub: Hub, tmp_path: Path) -> None:
    """The double refuses a signed request that carries credentials as well."""
    hub.commit("org/tiny", FILES)
    mine = source(hub, hf_token=TOKEN)
    store(tmp_path).fill(mine, mine.look(Progress()), Progress())

    assert {request.authorised for request in hub.requests if request.server == "hub"} == {True}
    assert {request.authorised for request in hub.requests if request.server == "cdn"} == {False}


def test_neither_token_nor_signed_addresses_are_logged_or_stored(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads logs or the store's manifests must not be able to fetch in our name."""
    hub.commit("org/tiny", FILES)
    mine = source(hub, hf_token=TOKEN)
    with caplog.at_level(logging.INFO):
        store(tmp_path).fill(mine, mine.look(Progress()), Progress())
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))

    assert hub.fetched("model.safetensors")
    assert [secret for secret in (TOKEN, "Signature=") if secret in caplog.text + written + repr(mine)] == []


@pytest.mark.parametrize("kind", ["truncate", "drop"])
def test_a_connection_that_breaks_off_is_resumed_where_it_stopped(hub: Hub, tmp_path: Path, kind: str) -> None:
    """No byte that came is fetched again."""
    hub.commit("org/tiny", FILES)
    hub.fault(kind, path="model.safetensors", after=300_000, times=2)  # type: ignore[arg-type]
    stored = store(tmp_path).fill(source(hub), look(hub), Progress())

    assert (stored.path / "model.safetensors").read_bytes() == WEIGHTS
    assert [request.range for request in hub.fetched("model.safetensors")] == [None, "bytes=300000-", "bytes=600000-"]
    assert stored.fetched_bytes == stored.size


def test_a_transfer_without_a_byte_is_aborted_and_resumed(hub: Hub, tmp_path: Path) -> None:
    """Within the stall time, and from where it stood."""
    hub.commit("org/tiny", FILES)
    hub.fault("stall", path="model.safetensors", after=500_000)
    begun = time.monotonic()
    stored = store(tmp_path).fill(source(hub, stall_seconds=0.3), look(hub), Progress())

    assert time.monotonic() - begun < 3
    assert (stored.path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.fetched("model.safetensors")[-1].range == "bytes=500000-"


def test_a_source_that_stalls_every_time_is_given_up_with_a_reason(hub: Hub, tmp_path: Path) -> None:
    """Attempts without a new byte are bounded; what came stays."""
    hub.commit("org/tiny", FILES)
    hub.fault("stall", path="model.safetensors", times=99)
    with pytest.raises(Transient) as caught:
        store(tmp_path).fill(source(hub, stall_seconds=0.1), look(hub), Progress())

    assert "no byte came for 0.1 s" in four_parts(caught.value)
    assert len(hub.fetched("model.safetensors")) == 3


def test_a_byte_that_flips_on_the_wire_is_found_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    """Same length, wrong content: nothing of it may stay."""
    hub.commit("org/tiny", FILES)
    hub.fault("flip", path="model.safetensors", after=77_777)
    hub.fault("flip", path="config.json", after=3)
    stored = store(tmp_path).fill(source(hub), look(hub), Progress())

    assert (stored.path / "model.safetensors").read_bytes() == WEIGHTS
    assert (stored.path / "config.json").read_bytes() == FILES["config.json"]
    assert [len(hub.fetched(name)) for name in ("model.safetensors", "config.json", "tokenizer.json")] == [2, 2, 1]


def test_a_file_that_is_damaged_every_time_is_given_up(hub: Hub, tmp_path: Path) -> None:
    """Bytes that come and are wrong are no progress."""
    hub.commit("org/tiny", FILES)
    hub.fault("flip", path="model.safetensors", after=7, times=99)
    with pytest.raises(Transient, match="arrived damaged"):
        store(tmp_path).fill(source(hub), look(hub), Progress())

    assert len(hub.fetched("model.safetensors")) <= 4


def test_a_server_that_ignores_ranges_is_asked_for_the_whole_file(hub: Hub, tmp_path: Path) -> None:
    """A 200 in place of 206 begins at the first byte, whatever was asked."""
    hub.commit("org/tiny", FILES)
    hub.fault("truncate", path="model.safetensors", after=300_000)
    hub.fault("norange", path="model.safetensors", times=1)
    stored = store(tmp_path).fill(source(hub), look(hub), Progress())

    assert (stored.path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_hub_is_asked_again_as_late_as_it_says(hub: Hub, tmp_path: Path, status: int) -> None:
    """Retry-After counts, for the list as for the files."""
    hub.commit("org/tiny", FILES)
    hub.fault("status", path="/api/*", status=status, retry_after="0")
    hub.fault("status", path="config.json", status=status, retry_after="0.4")
    seen, begun = look(hub), time.monotonic()
    stored = store(tmp_path).fill(source(hub), seen, Progress())

    assert time.monotonic() - begun >= 0.4
    assert (stored.path / "config.json").read_bytes() == FILES["config.json"]


def test_a_hub_that_asks_for_more_patience_than_we_have_hands_the_wait_to_the_caller(hub: Hub) -> None:
    """The error carries the seconds; nobody sleeps for half an hour in a step."""
    hub.commit("org/tiny", FILES)
    hub.fault("status", path="/api/*", status=429, retry_after="1800")
    with pytest.raises(Transient) as caught:
        look(hub)

    assert caught.value.retry_after == 1800
    assert "in 1800 s" in four_parts(caught.value)


def test_each_refusal_has_an_error_of_its_own_that_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    """Unknown, private, gated with and without a token, bad token, unknown revision; and no error shows the token."""
    hub.commit("org/tiny", FILES)
    hub.commit("org/gated", FILES)
    hub.repos["org/gated"].gated = True
    said = {}
    for name, uri, token in [
        ("guest", "hf://org/none", None),
        ("unknown", "hf://org/none", TOKEN),
        ("revision", "hf://org/tiny@v9", None),
        ("bad token", "hf://org/tiny", "hf_wrongwrongwrong"),
        ("gated guest", "hf://org/gated", None),
        ("gated", "hf://org/gated", TOKEN),
    ]:
        mine = source(hub, uri, hf_token=token)
        with pytest.raises(ConfigError) as caught:
            store(tmp_path).fill(mine, mine.look(Progress()), Progress())
        said[name] = four_parts(caught.value)

    assert "no token was given" in said["guest"]
    assert "this token may not see it" in said["unknown"]
    assert "no revision v9" in said["revision"]
    assert "wrong, expired or revoked" in said["bad token"]
    assert "no token was given" in said["gated guest"]
    assert "has not accepted its licence" in said["gated"]
    assert len(set(said.values())) == 6
    assert not any("hf_" in text.replace("hf://", "") for text in said.values())


def test_a_gated_repository_opens_to_a_token_that_accepted(hub: Hub, tmp_path: Path) -> None:
    """The way that the error names leads there."""
    hub.commit("org/gated", FILES)
    hub.repos["org/gated"].gated, hub.repos["org/gated"].accepted = True, {TOKEN}
    mine = source(hub, "hf://org/gated", hf_token=TOKEN)

    assert store(tmp_path).fill(mine, mine.look(Progress()), Progress()).changed


def test_a_file_that_vanished_since_it_was_listed_is_named(hub: Hub, tmp_path: Path) -> None:
    """History was rewritten on the other side."""
    sha = hub.commit("org/tiny", FILES)
    seen = look(hub)
    del hub.repos["org/tiny"].commits[sha].files["config.json"]
    with pytest.raises(Transient) as caught:
        store(tmp_path, attempts=1).fill(source(hub), seen, Progress())

    assert "config.json is gone" in four_parts(caught.value)


def test_no_network_says_which_address_was_tried(tmp_path: Path) -> None:
    """Nothing listens there: list and file alike."""
    with Hub() as gone:
        gone.commit("org/tiny", FILES)
        seen = look(gone)
    for call in (lambda: look(gone), lambda: store(tmp_path, attempts=1).fill(source(gone), seen, Progress())):
        with pytest.raises(Transient) as caught:
            call()
        assert gone.endpoint in four_parts(caught.value)


def test_a_hub_that_does_not_answer_at_all_is_not_waited_for_longer_than_a_stall(hub: Hub) -> None:
    """A read timeout in the Hub client becomes our error, not a traceback."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        deaf = Access(hf_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", stall_seconds=0.1)
        with pytest.raises(Transient) as caught:
            open_source(parse("hf://org/tiny", Path("/")), deaf).look(Progress())

    assert "stalled" in four_parts(caught.value)


def test_a_withdrawn_model_ends_a_stalled_download_at_once(hub: Hub, tmp_path: Path) -> None:
    """`down` never waits for a stall time."""
    hub.commit("org/tiny", FILES)
    hub.fault("stall", path="model.safetensors", times=99)
    seen, begun = look(hub), time.monotonic()

    def withdrawn() -> None:
        if time.monotonic() - begun > 0.3:
            raise Blocked("withdrawn")

    with pytest.raises(Blocked):
        store(tmp_path).fill(source(hub, stall_seconds=60.0), seen, Progress(stop=withdrawn))
    assert time.monotonic() - begun < 2


def test_files_of_the_hubs_own_cache_are_linked_and_verified(hub: Hub, tmp_path: Path) -> None:
    """Nothing is fetched twice on one machine; a damaged file of the cache is not believed."""
    hub.commit("org/tiny", FILES)
    seen, cache = look(hub), tmp_path / "hub"
    blobs = cache / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    for file in seen.manifest.files:
        (blobs / file.digest.partition(":")[2]).write_bytes(FILES[file.path])
    (blobs / git_id(FILES["config.json"])).write_bytes(b"?" * len(FILES["config.json"]))
    stored = store(tmp_path).fill(source(hub, hf_cache=cache), seen, Progress())
    weights = next(file for file in seen.manifest.files if file.path == "model.safetensors")

    assert stored.fetched_bytes == len(FILES["config.json"])
    assert (stored.path / "model.safetensors").samefile(blobs / (weights.sha256 or ""))
    assert (stored.path / "config.json").read_bytes() == FILES["config.json"]


def test_offline_asks_nobody(hub: Hub) -> None:
    """The setting is a rule, so what it forbids is blocked, not failed."""
    with pytest.raises(Blocked):
        look(hub, offline=True)
    assert hub.requests == []


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(hub: Hub) -> None:
    """And taken when the user says so."""
    hub.commit("org/tiny", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(ConfigError, match="only pickle files"):
        look(hub)

    assert [file.path for file in look(hub, allow_pickle=True).manifest.files] == ["config.json", "pytorch_model.bin"]
    assert [request for request in hub.requests if "/resolve/" in request.path] == []


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("1.5", 1.5), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("", None)]
)
def test_retry_after_is_read_as_number_and_as_date(value: str, seconds: float | None) -> None:
    """RFC 9110 allows both; what is neither is nobody's wait."""
    assert Reply(429, {"retry-after": value}, "GET", "http://x").retry_after == seconds


def test_the_hubs_own_rate_limit_header_is_understood() -> None:
    """It comes without Retry-After."""
    assert Reply(429, {"RateLimit": '"api";r=0;t=55'}, "GET", "http://x").retry_after == 55


def test_whatever_the_hub_clients_transport_raises_is_mapped() -> None:
    """It changed its HTTP library once already: its errors must still share the base that is caught here."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    assert [base for base in HfHubHTTPError.__bases__ if base is not OSError] == [httpx2.HTTPError]


def test_every_status_has_an_error_and_none_shows_a_signed_query() -> None:
    """Whatever a proxy invents: typed, four parts, no signature in it."""
    for status in range(400, 600):
        error = refusal(
            Asked("hf://o/n", "o/n", "https://hub", path="f"), Reply(status, {}, "GET", "https://cdn/f?Signature=geheim"), token=False
        )
        assert isinstance(error, Permanent | Transient)
        assert not isinstance(error, CapacityError)
        assert "geheim" not in error.problem.text()
