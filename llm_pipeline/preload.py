"""What the server of a run has before it forks the first step: the whole graph, so that no step has to make it again."""

from __future__ import annotations

from llm_pipeline.definitions import whole

whole().get_repository_def()
