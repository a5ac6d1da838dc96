"""What the server of a run has before it forks the first step: the whole graph, and the code of Dagster's storage.

Every step would make the one and read the other again: half a second each with two models, seconds with hundreds.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.storage import local_compute_log_manager, sqlite_storage  # noqa: F401

from llm_pipeline.definitions import whole

whole().get_repository_def()
with dg.DagsterInstance.ephemeral() as instance:
    instance.get_runs(limit=1)
