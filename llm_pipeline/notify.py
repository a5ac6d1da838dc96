"""notify: look at one model's source now, and begin what follows, without waiting for the sensors' next looks.

The verb and the job `notify` are one thing: the job is for who reaches Dagster and not this machine (a pipeline that has just pushed a
revision; the call is in docs/operations.md).
"""

import dagster as dg

from assets.step import Model, failure
from assets.workers import noted
from infra import settings
from infra.errors import PipelineError
from llm_pipeline import actions, automation, components, revisions
from llm_pipeline.revisions import News
from llm_pipeline.runs import Dagster

LOOK_SECONDS = 120.0
"""For one source."""


class LookConfig(dg.Config):
    """`model`: whose source to look at."""

    model: str


def build() -> dg.Definitions:
    """The job `notify`."""

    @dg.op(name="look")
    def look(context: dg.OpExecutionContext, config: LookConfig) -> None:
        try:
            news, run = notify(Dagster(settings.load()), actions.stage(config.model), LOOK_SECONDS)
        except PipelineError as error:
            raise failure(error) from error
        context.log.info(f"{config.model}: {revisions.told(news)}; {f'run {run} was launched' if run else 'nothing is launched'}")

    @dg.job(
        name="notify", tags={"llm/lifecycle": "notify"}, executor_def=noted(dg.in_process_executor),
        description="Looks at one model's source now, and begins what follows: for a pipeline that has just pushed a revision.",
    )  # fmt: skip
    def look_now() -> None:
        look()

    return dg.Definitions(jobs=[look_now])


def notify(dagster: Dagster, model: Model, timeout: float) -> tuple[News, str | None]:
    """What the source shows, and the run that was launched because of it, if any. Raises Blocked when nobody wants the model."""
    news = revisions.look_at(model, lambda: dagster.instance, timeout)
    if news.new:
        dagster.instance.report_runless_asset_event(revisions.event(news))
    if news.verdict is None or not news.verdict.admitted:
        return news, None
    _, run = automation.look_now(dagster, components.declared().models[model.name])
    return news, run
