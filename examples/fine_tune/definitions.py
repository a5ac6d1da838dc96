"""A fine-tune that goes live by itself, or is refused: what a team adds beside the product, in a code location of its own.

    fine_tune/weights          the demo model, taught lessons.yaml: trained in the engine's own environment, written into a new folder by each run
    tuned/ray_service:canary   five questions to each candidate, on its own address, before it gets a request
    fine_tune/scores           every known question to each release that went live

The two locations share nothing but the one Dagster instance. `tuned` says `weights: asset://fine_tune/weights` and requires the canary.
"""

from typing import Any

import dagster as dg

from examples.fine_tune import questions, training

MODEL = "tuned"
CANDIDATE, ENDPOINT = dg.AssetKey([MODEL, "ray_service"]), dg.AssetKey([MODEL, "endpoint"])
EVERY = 5
"""Seconds between two looks of a sensor: a candidate waits for its canary."""


@dg.asset(key=["fine_tune", "weights"], group_name="fine_tune", kinds={"pytorch"})
def weights(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """The demo model after a short training on lessons.yaml. Its last materialisation is what the model `tuned` follows."""
    made = training.train(context.run_id, context.log.info)
    return dg.MaterializeResult(
        metadata={"path": dg.MetadataValue.path(made.path), "digest": made.digest, "lessons": made.lessons, "smallest_lead": made.lead, "seconds": made.seconds},
        data_version=dg.DataVersion(made.digest),
    )


class Candidate(dg.Config):
    """What the page of `ray_service` said when the candidate was up."""

    release: str
    address: str
    run: str


@dg.asset_check(asset=CANDIDATE, name="canary", description="It answers the canary's questions. The product waits for this before it moves any traffic.")
def canary(config: Candidate) -> dg.AssetCheckResult:
    """Asked on the candidate's own address. `release` and `run` say whom this result judges: without them it counts for nobody."""
    answers = questions.ask(config.address, MODEL, questions.canary())
    wrong = [answer for answer in answers if not answer.right]
    return dg.AssetCheckResult(
        passed=not wrong, description="; ".join(map(str, wrong)) or f"{len(answers)} of {len(answers)} answers are right",
        metadata={"release": config.release, "run": config.run, "asked": len(answers), "wrong": len(wrong)},
    )  # fmt: skip


class Released(dg.Config):
    """What the page of `endpoint` said when the traffic was there."""

    release: str
    served_name: str
    url: str


@dg.asset(key=["fine_tune", "scores"], deps=[ENDPOINT], group_name="fine_tune", kinds={"json"})
def scores(config: Released) -> dg.MaterializeResult[Any]:
    """How many of all known questions the release answers rightly, at the address that clients use."""
    answers = questions.ask(config.url, config.served_name, questions.known())
    path = questions.write(config.release, answers)
    right = sum(answer.right for answer in answers)
    return dg.MaterializeResult(metadata={"release": config.release, "right": right, "asked": len(answers), "path": dg.MetadataValue.path(path)})


judge = dg.define_asset_job("judge", selection=dg.AssetSelection.checks(canary))
score = dg.define_asset_job("score", selection=[scores])


@dg.asset_sensor(asset_key=CANDIDATE, job=judge, minimum_interval_seconds=EVERY, default_status=dg.DefaultSensorStatus.RUNNING)
def candidate_is_up(context: dg.SensorEvaluationContext, event: dg.EventLogEntry) -> dg.RunRequest:
    """Each time that a candidate came up: the canary."""
    facts = told(event)
    return requested(canary.node_def.name, {"release": facts["release"], "address": facts["address"], "run": event.run_id})


@dg.asset_sensor(asset_key=ENDPOINT, job=score, minimum_interval_seconds=EVERY, default_status=dg.DefaultSensorStatus.RUNNING)
def traffic_moved(context: dg.SensorEvaluationContext, event: dg.EventLogEntry) -> dg.RunRequest:
    """Each time that a release got the traffic: its scores."""
    facts = told(event)
    return requested(scores.op.name, {name: facts[name] for name in Released.model_fields})


def told(event: dg.EventLogEntry) -> dict[str, Any]:
    """The metadata of a materialisation, plain."""
    found = event.asset_materialization
    return {name: value.value for name, value in found.metadata.items()} if found else {}


def requested(step: str, config: dict[str, Any]) -> dg.RunRequest:
    """A run whose one step gets this."""
    return dg.RunRequest(run_config={"ops": {step: {"config": config}}})


defs = dg.Definitions(assets=[weights, scores], asset_checks=[canary], jobs=[judge, score], sensors=[candidate_is_up, traffic_moved], executor=dg.in_process_executor)
