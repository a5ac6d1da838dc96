"""Which instances, at what price, and why not the others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Transient
from infra.planner import Choice, Prices, Wish, catalogue, choose
from infra.planner.capacity import allocatable, disk_of, summary
from infra.planner.pricing import live, usd
from tests.infra.planner_doubles import GIB, model, told

TODAY = date(2026, 8, 1)
EIGHT_B = Wish(model("llama_3_1_8b"), told())


def names(choice: Choice) -> list[str]:
    return [one.instance for one in choice.candidates]


def why(choice: Choice, instance: str) -> str:
    return next(one.why for one in choice.rejected if one.instance == instance)


def instance(name: str) -> Any:
    return next(one for one in catalogue().instances if one.name == name)


# ---------------------------------------------------------------- catalogue


def test_the_catalogue_is_whole_and_dated() -> None:
    """Every type has a known chip, and memory as torch reports it: less than AWS says."""
    known = catalogue()

    assert len(known.instances) == 58
    assert len({one.name for one in known.instances}) == 58
    assert known.day == date(2026, 7, 20)
    assert all(one.gpus >= 1 and one.memory > 0 and one.cpus > 0 for one in known.instances)
    assert {one.gpu.name for one in known.instances} == {gpu.name for gpu in known.gpus}
    assert instance("g5.xlarge").gpu.memory == int(22.30 * GIB)
    assert instance("p5e.48xlarge").usd == {}


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA L4", "L4"), ("l40s", "L40S"), ("Tesla T4", "T4"), ("Tesla-T4", "T4"), ("NVIDIA A10G", "A10G"), ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"), ("NVIDIA A100-SXM4-80GB", "A100-80"), ("a100-80", "A100-80"), ("NVIDIA-H200", "H200"), ("NVIDIA B200", "B200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"), ("NVIDIA A10", None), ("GeForce RTX 4090", None), ("NVIDIA GB200", None), ("NVIDIA GT4", None), ("NVIDIA H100 NVL", None), ("", None),
    ],
)  # fmt: skip
def test_a_chip_is_known_by_the_names_that_drivers_give_it(said: str, name: str | None) -> None:
    """And no other is taken for it."""
    found = catalogue().gpu(said)

    assert (found.name if found else None) == name


@pytest.mark.parametrize(("day", "warned"), [(date(2026, 10, 18), False), (date(2026, 10, 19), True), (date(2026, 7, 1), False)])
def test_prices_older_than_90_days_are_warned_of(day: date, warned: bool) -> None:
    """With their age."""
    choice = choose(EIGHT_B, day)

    assert any("days old" in one for one in choice.warnings) is warned
    assert choice.prices.age(date(2026, 8, 1)) == 12


# ---------------------------------------------------------------- choice


def test_8b_goes_to_the_cheapest_machine_that_can_load_and_hold_it() -> None:
    """Not the xlarge with 16 GiB of main memory; not a T4; candidates by price."""
    choice = choose(EIGHT_B, TODAY)

    assert names(choice)[:2] == ["g6.2xlarge", "g5.2xlarge"]
    assert "main memory" in why(choice, "g6.xlarge")
    assert "weights alone" in why(choice, "g4dn.xlarge")
    assert "part of a GPU" in why(choice, "g6f.xlarge")
    assert "driver" in why(choice, "g7.2xlarge")
    prices = [one.usd for one in choice.candidates if one.usd is not None]
    assert prices == sorted(prices)
    assert names(choice)[-1] == "p5e.48xlarge"
    assert "g6.2xlarge" in summary(choice)


def test_a_model_of_70b_takes_several_gpus() -> None:
    """The smallest group of GPUs that holds it."""
    best = choose(Wish(model("llama_3_1_70b"), told()), TODAY).candidates[0]

    assert (best.instance, best.parallel, best.count) == ("g7e.12xlarge", 2, 1)
    assert best.requests.gpus == 2


def test_replicas_share_an_instance_before_another_one_is_taken() -> None:
    """Eight replicas of one GPU: eight of the small, or one machine with eight GPUs."""
    choice = choose(Wish(model("llama_3_1_8b"), told(), replicas=8), TODAY)
    counts = {one.instance: one.count for one in choice.candidates}

    assert counts["g6.2xlarge"] == 8
    assert counts["g6.48xlarge"] == 1
    assert counts["g6.12xlarge"] == 2
    assert {one.instance: one.count for one in choose(Wish(model("llama_3_1_8b"), told(), replicas=9), TODAY).candidates}["g6.48xlarge"] == 2
    assert choice.candidates[0].usd == pytest.approx(8 * 0.9776)


def test_a_declared_chip_parallelism_and_ceiling_are_kept() -> None:
    """And everything else says what it lacks."""
    choice = choose(Wish(model("llama_3_1_8b"), told(), parallel=2, gpu="l4", most_usd=6.0), TODAY)

    assert names(choice) == ["g6.12xlarge"]
    assert "asked for" in why(choice, "g5.12xlarge")
    assert "one replica needs 2" in why(choice, "g6.2xlarge")
    assert "ceiling is 6.00" in why(choice, "g6.24xlarge")
    assert any("not a GPU of the catalogue" in one for one in choose(Wish(model("llama_3_1_8b"), told(), gpu="TPU"), TODAY).warnings)


def test_a_region_without_prices_has_an_order_and_no_ceiling() -> None:
    """Unknown is not us-east-1's price; and a ceiling that can not be kept refuses."""
    free = choose(EIGHT_B, TODAY, region="eu-west-1")
    bounded = choose(Wish(model("llama_3_1_8b"), told(), most_usd=100.0), TODAY, region="eu-west-1")

    assert names(free)[0] == "g6.2xlarge"
    assert {one.usd for one in free.candidates} == {None}
    assert any("eu-west-1" in one and "AWS_PROFILE" in one for one in free.warnings), "what to do for prices"
    assert bounded.candidates == ()
    assert "not known" in why(bounded, "g6.2xlarge")
    assert summary(bounded) == "no instance type holds it"


def test_types_without_a_price_come_after_those_with_one() -> None:
    """us-west-2 is known in part."""
    priced = [one.usd is not None for one in choose(EIGHT_B, TODAY, region="us-west-2").candidates]

    assert True in priced and False in priced
    assert priced == sorted(priced, reverse=True)


def test_replicas_on_one_machine_share_its_main_memory() -> None:
    """Four GPUs and memory for the loading of one replica only."""
    known = catalogue()
    narrow = replace(known, instances=(replace(instance("g6.12xlarge"), memory=40 * GIB),))

    assert names(choose(EIGHT_B, TODAY, known=narrow)) == ["g6.12xlarge"]
    assert "main memory" in why(choose(replace(EIGHT_B, replicas=4, parallel=1), TODAY, known=narrow), "g6.12xlarge")


def test_live_prices_and_a_surcharge_count() -> None:
    """Whatever source they have; the surcharge before the ceiling."""
    prices = Prices("eu-west-1", TODAY, {"g6.2xlarge": 2.0, "g5.2xlarge": 1.0}, source="live")
    choice = choose(Wish(model("llama_3_1_8b"), told(), surcharge=0.12, most_usd=2.0), TODAY, prices)

    assert [(one.instance, one.usd) for one in choice.candidates] == [("g5.2xlarge", 1.12)]
    assert choice.warnings == ()


def test_a_model_that_is_not_computed_gets_no_machine_by_guess() -> None:
    """The reason stands at every type."""
    choice = choose(Wish(model("llama_3_1_8b", mamba_d_state=16), told()), TODAY)

    assert choice.candidates == ()
    assert why(choice, "p5.48xlarge").startswith("not computed: it is a hybrid")


@given(st.sampled_from(["llama_3_1_8b", "qwen2_5_32b", "gpt_oss_20b", "deepseek_r1"]), st.integers(1, 4), st.none() | st.floats(0.5, 150), st.none() | st.sampled_from([1, 2, 4, 8]))
def test_every_type_is_judged_and_every_candidate_fits(name: str, replicas: int, most: float | None, parallel: int | None) -> None:
    """Once each; within the ceiling; with requests that the node can give."""
    choice = choose(Wish(model(name), told(max_model_len=4096), replicas=replicas, most_usd=most, parallel=parallel), TODAY)

    assert sorted([*names(choice), *(one.instance for one in choice.rejected)]) == sorted(one.name for one in catalogue().instances)
    assert all(one.why for one in choice.rejected)
    for one in choice.candidates:
        cpus, memory = allocatable(instance(one.instance))
        together = min(instance(one.instance).gpus // one.parallel, replicas)
        assert one.plan.fits
        assert one.count * together >= replicas
        assert one.requests.cpus * together <= cpus and one.requests.memory * together <= memory
        assert one.requests.scratch * together <= one.disk.size - 60 * GIB
        assert most is None or (one.usd is not None and one.usd <= most + 1e-6)


# ---------------------------------------------------------------- requests and disk


def test_a_node_keeps_what_it_needs_for_itself() -> None:
    """g5.4xlarge (16 CPUs, 64 GiB): people asked for 12 CPUs and 60 GB of it. Every type leaves something."""
    cpus, memory = allocatable(instance("g5.4xlarge"))

    assert 15 <= cpus < 16
    assert 60e9 <= memory < 62e9
    assert all(c > 0 and m > GIB for c, m in map(allocatable, catalogue().instances))


def test_the_disk_holds_system_image_and_weights() -> None:
    """The image twice: packed and unpacked; and room for logs. A large local disk is enough, a small one needs a root volume."""
    small, large = (disk_of(instance(name), 20 * GIB, 15 * GIB) for name in ("g6f.large", "g6.2xlarge"))

    assert small.size == large.size == 60 * GIB + int(16.5 * GIB) + 10 * GIB
    assert large.local
    assert not disk_of(instance("g6.2xlarge"), 20 * GIB, 600 * GIB).local


def test_the_disk_holds_the_files_as_they_are_stored() -> None:
    """Of 32 bits, where the engine loads 16; and of 16, where it makes 8 of them as it loads."""
    plain, wide = (choose(Wish(model("llama_3_1_8b", torch_dtype=kind), told()), TODAY).candidates[0] for kind in ("bfloat16", "float32"))
    small = choose(Wish(model("llama_3_1_8b"), told(quantization="fp8")), TODAY).candidates[0]

    assert plain.requests.scratch == small.requests.scratch == int(8_030_261_248 * 2 * 1.1) + 1 + 10 * GIB
    assert wide.requests.scratch == pytest.approx(8_030_261_248 * 4 * 1.1 + 10 * GIB, abs=2)
    assert wide.plan.weights == plain.plan.weights


# ---------------------------------------------------------------- live prices

ITEM = {
    "product": {"attributes": {"instanceType": "g6.2xlarge"}},
    "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": {"unit": "Hrs", "pricePerUnit": {"USD": "0.9776000000"}}}}}},
}


def test_an_item_of_the_price_list_says_its_price() -> None:
    """Reserved ones and upfront fees are no price per hour; nothing is free."""
    assert usd(ITEM) == 0.9776
    assert usd({"terms": {"Reserved": {}}}) is None
    assert usd({"terms": {"OnDemand": {"A": {"priceDimensions": {"B": {"unit": "Hrs", "pricePerUnit": {"USD": "0"}}}}}}}) is None


@pytest.fixture
def price_list() -> Iterator[tuple[Any, list[dict[str, Any]], dict[str, list[str]]]]:
    """A client of a server that answers like AWS's price list; what it was asked; what it answers by instance type."""
    asked: list[dict[str, Any]] = []
    answers: dict[str, list[str]] = {}

    class PriceList(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"operation": self.headers["X-Amz-Target"], **{row["Field"]: row["Value"] for row in body["Filters"]}})
            found = answers.get(asked[-1]["instanceType"])
            raw = json.dumps({"FormatVersion": "aws_v1", "PriceList": found} if found is not None else {"__type": "AccessDeniedException", "message": "no"}).encode()
            self.send_response(200 if found is not None else 400)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), PriceList)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    import boto3

    url = f"http://127.0.0.1:{server.server_address[1]}"
    client = boto3.client("pricing", region_name="us-east-1", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b")
    yield client, asked, answers
    client.close()
    server.shutdown()
    server.server_close()


def test_live_prices_are_those_of_the_region_and_the_day(price_list: Any) -> None:
    """A type that is not sold there is left out; what is asked for is Linux, shared, on demand."""
    client, asked, answers = price_list
    answers |= {"g6.2xlarge": [json.dumps(ITEM)], "p5.48xlarge": []}

    prices = live("eu-west-1", ["g6.2xlarge", "p5.48xlarge"], TODAY, client)

    assert prices == Prices("eu-west-1", TODAY, {"g6.2xlarge": 0.9776}, source="live")
    assert asked[0]["operation"] == "AWSPriceListService.GetProducts"
    assert (asked[0]["regionCode"], asked[0]["operatingSystem"], asked[0]["tenancy"]) == ("eu-west-1", "Linux", "Shared")


@pytest.mark.parametrize("answer", [None, ["not JSON"]])
def test_prices_that_can_not_be_read_are_a_passing_failure(price_list: Any, answer: list[str] | None) -> None:
    """Refused, or an answer that is none: the snapshot still stands."""
    client, _, answers = price_list
    answers |= {} if answer is None else {"g6.2xlarge": answer}

    with pytest.raises(Transient, match="eu-west-1") as caught:
        live("eu-west-1", ["g6.2xlarge"], TODAY, client)
    assert "snapshot" in (caught.value.problem.next or "")
