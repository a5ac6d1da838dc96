"""What a receiver is sent, how its answers are read, and that nothing shows its address."""

from __future__ import annotations

import logging
import pickle
import random
import threading
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from infra import settings, webhook
from infra.errors import ConfigError
from infra.loopback import here
from infra.notices import Kind, Notice, Told
from infra.outbox import BACK_OFF, GIVE_UP, KEEP, MOST, added, aged, pause, tried
from infra.webhook import Answer, post, read, render
from tests.doubles.webhook import SECRET, Receiver, faults

NOW = 1_790_000_000.0


def notice(kind: Kind = "refused", **more: Any) -> Notice:
    given = {"what": "demo: release b was refused", "why": "ping answered <pang> & not pong", "next": "llm-pipeline retry demo", "log": "pang", "commands": ("llm-pipeline retry demo",), "run": "0123456789ab"}
    return Notice(kind=kind, model="demo", at=NOW, **{**given, **more})


# ---------------------------------------------------------------- what is sent


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_kind_is_told_in_four_parts_with_its_command_and_a_link(kind: Kind) -> None:
    """In Slack's form, and as plain text for whoever shows only that."""
    document = render(notice(kind), "http://127.0.0.1:3000/")
    told = str(document["blocks"])

    assert faults(document) == []
    for text in (document["text"], told):
        assert [word for word in (kind, "was refused", "why", "answered &lt;pang&gt; &amp; not pong", "next", "llm-pipeline retry demo", "pang", "http://127.0.0.1:3000/runs/0123456789ab") if word not in text] == []
    assert "```\\npang\\n```" in told and "\n  why  ping" in document["text"]


def test_whatever_the_words_are_it_stays_within_slacks_limits_and_discords() -> None:
    """Escaping makes texts longer, and a log may hold anything: fences, marks, mentions."""
    rng = random.Random(7)
    for size in (0, 1, 299, 301, 5000, 60_000):
        words = "".join(rng.choice("&<>`@*_~ äx\n") for _ in range(size))
        document = render(notice(what=f"demo: {words}", why=words or None, next=words or None, log=words or None, commands=(f"llm-pipeline up {words}",)), "http://127.0.0.1:3000")
        assert faults(document) == [] and len(document["text"]) < 2000, size
        assert all(block["text"]["text"].count("```") in (0, 2) for block in document["blocks"] if block["type"] == "section" and block["text"]["text"].startswith("```"))


def test_of_a_long_log_the_end_is_kept_and_of_a_long_reason_the_beginning() -> None:
    """There they say what matters."""
    document = render(notice(why="first" + "x" * 5000 + "last", log="first" + "x" * 5000 + "last"))
    assert "why  firstx" in document["text"] and "xlast" in document["text"].partition("log")[2] and "xlast" not in document["text"].partition("log")[0]


def test_nobody_is_woken_and_no_secret_is_told() -> None:
    """A log line that says @everyone is no call, and a token in it is cut."""
    document = str(render(notice(log="@everyone <!channel> Authorization: Bearer abcdef123456 hf_abcdefgh1234")))
    assert "@everyone" not in document and "<!channel>" not in document and "abcdef123456" not in document and "hf_abcdefgh" not in document


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize(("status", "after", "expected"), [
    (200, None, Answer(taken=True)), (204, None, Answer(taken=True)),
    (429, "30", Answer(rest=True, why="it limits the rate (429)", after=30.0)), (429, None, Answer(rest=True, why="it limits the rate (429)")),
    (429, "Mon, 21 Sep 2026 14:14:20 GMT", Answer(rest=True, why="it limits the rate (429)", after=60.0)), (429, "nonsense", Answer(rest=True, why="it limits the rate (429)")),
    (503, "999999999", Answer(why="it answered 503", after=3600.0)), (500, None, Answer(why="it answered 500")), (408, None, Answer(why="it answered 408")),
    (404, "5", Answer(final=True, why="it answered 404")), (403, None, Answer(final=True, why="it answered 403")), (302, None, Answer(final=True, why="it answered 302")),
], ids=str)  # fmt: skip
def test_a_status_says_whether_it_is_tried_again(status: int, after: str | None, expected: Answer) -> None:
    """408, 429 and 5xx pass; everything else that is not 2xx stays so."""
    assert read(status, after, 1_790_000_000.0) == expected


def test_a_receiver_that_takes_it_has_it_whole() -> None:
    """Over HTTP, as JSON."""
    with Receiver() as receiver:
        answer = post(SecretStr(receiver.url), render(notice()), 60)

        assert answer == Answer(taken=True) and receiver.wrong == [] and receiver.taken == [render(notice())]


@pytest.mark.parametrize("how", ["hang", "drop", "drip"])
def test_a_receiver_that_hangs_drips_or_hangs_up_is_one_that_does_not_answer(how: str) -> None:
    """However slowly it does so."""
    with Receiver() as receiver:
        receiver.answers = [how]
        answer = post(SecretStr(receiver.url), render(notice()), 1)

        assert answer.rest and not answer.taken and not answer.final and answer.why


@pytest.mark.parametrize("url", [
    f"http://127.0.0.1:1/{SECRET}", f"http://127.0.0.1:nonsense/{SECRET}", f"ftp://127.0.0.1/{SECRET}", f"https://127.0.0.1:1/{SECRET}", f"http://[::1/{SECRET}", SECRET, "",
])  # fmt: skip
def test_no_error_shows_the_address(url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own errors carry it, and so does its log."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)
    answer = post(SecretStr(url), render(notice()), 30)

    assert answer.rest and answer.why
    assert "in-the-clear" not in answer.why + caplog.text + repr(answer)


def test_the_clients_log_line_is_held_back_for_us_and_for_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """It would show the address; others' lines are theirs."""
    caplog.set_level(logging.DEBUG)
    with Receiver() as receiver:
        assert post(SecretStr(receiver.url), render(notice()), 60).taken
    with webhook._unlogged():
        logging.getLogger("httpx").info("https://hooks/in-the-clear")
        other = threading.Thread(target=logging.getLogger("httpx").info, args=("somebody else's request",))
        other.start()
        other.join()

    assert "in-the-clear" not in caplog.text and "somebody else's request" in caplog.text and logging.getLogger("httpx").filters == []


def test_an_error_that_carries_the_address_is_told_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client comes up with in its next version."""

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError(f"https://hooks/{SECRET} is odd")

    monkeypatch.setattr(webhook.httpx, "Client", broken)

    assert post(SecretStr(f"https://hooks/{SECRET}"), {}, 30) == Answer(rest=True, why="it can not be reached (RuntimeError)")


@pytest.mark.parametrize("wrong", ["in-the-clear", "hooks.example/in-the-clear", "ftp://hooks/in-the-clear", "https://", "https:///in-the-clear", "https://hooks/in-the-clear and more"])
def test_a_malformed_address_is_refused_without_being_shown(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a secret is one too."""
    monkeypatch.setenv("LLM_PIPELINE_WEBHOOK_URL", wrong)
    with pytest.raises(ConfigError) as caught:
        settings.load()

    assert "LLM_PIPELINE_WEBHOOK_URL is not usable" in str(caught.value) and "in-the-clear" not in repr(caught.value) + str(caught.value) + str(pickle.dumps(caught.value))
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_addresses_of_this_machine_are_asked_without_a_proxy() -> None:
    """As everything on loopback."""
    assert here("http://127.0.0.1:1/x") and not here("https://hooks.example/x")


# ---------------------------------------------------------------- until it was taken


def full(*notices: Notice) -> Told:
    return added(Told(), notices, NOW)


def test_what_was_taken_is_gone_and_the_next_one_is_first() -> None:
    """In the order in which it happened."""
    told = tried(full(notice("refused"), notice("healed")), Answer(taken=True), NOW)
    assert [one.notice.kind for one in told.outbox] == ["healed"] and told.lost == ()


def test_what_was_not_taken_waits_longer_each_time_and_is_never_overtaken() -> None:
    """And as long as the receiver asked for, where that is longer."""
    told, waited = full(notice("refused"), notice("healed")), []
    for _ in range(6):
        told = tried(told, Answer(why="it answered 503"), NOW)
        waited.append(told.outbox[0].after - NOW)
    asked = tried(told, Answer(why="it answered 503", after=2000.0), NOW)

    assert waited == [*BACK_OFF, BACK_OFF[-1], BACK_OFF[-1]] and [one.notice.kind for one in told.outbox] == ["refused", "healed"]
    assert asked.outbox[0].after == NOW + 2000 and pause(0) == BACK_OFF[0]


def test_what_is_refused_for_good_or_waits_too_long_is_given_up_and_kept_to_be_seen() -> None:
    """With when and why; never without a trace."""
    refused = tried(full(notice()), Answer(final=True, why="it answered 404"), NOW)
    young, old, back = aged(full(notice()), NOW + GIVE_UP - 1), aged(full(notice()), NOW + GIVE_UP), aged(full(notice()), NOW - GIVE_UP)

    assert refused.outbox == () and refused.lost[0].why == "it answered 404"
    assert young.lost == () == back.lost and old.outbox == () and old.lost[0].why == "not taken within 6 h"


def test_nothing_piles_up_without_end() -> None:
    """Of very many the oldest are given up, and of those the last are shown."""
    told = added(Told(), [notice(run=str(n)) for n in range(MOST + KEEP + 5)], NOW)
    assert [one.notice.run for one in told.outbox] == [str(n) for n in range(KEEP + 5, MOST + KEEP + 5)]
    assert [one.notice.run for one in told.lost] == [str(n) for n in range(5, KEEP + 5)]


def test_a_record_never_grows_beyond_what_a_cluster_keeps() -> None:
    """Whatever an engine said: the end of its log, the beginning of all else."""
    long = "first" + "x" * 100_000 + "last"
    told = added(Told(), [notice(what=long, why=long, next=long, log=long)] * (MOST + KEEP), NOW)
    kept = told.outbox[0].notice

    assert len(told.model_dump_json()) < 700_000 and len(told.outbox) == MOST and len(told.lost) == KEEP
    assert kept.why and kept.log and kept.why.startswith("first") and kept.log.endswith("last") and added(Told(), [notice()], NOW).outbox[0].notice == notice()
