"""`run_task`: a task of lm-evaluation-harness over rows that a test gives. Needs lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager


def run_task(model: Any, folder: Path, rows: list[dict[str, Any]], **task: Any) -> dict[str, Any]:
    """Results of the task "tiny" over `rows`, with the samples; `chat`: as conversations."""
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    chat = task.pop("chat", False)
    config = {
        "task": "tiny", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", **task,
    }  # fmt: skip
    manager = TaskManager(include_defaults=False)  # reading its thousands of tasks takes half a minute
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, tasks=[config], task_manager=manager, bootstrap_iters=0, apply_chat_template=chat
    )
    return found
