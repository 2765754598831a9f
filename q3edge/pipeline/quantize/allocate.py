"""A budget of bytes as part of `quantize`: the scheme of each scheme group of the model, chosen by measured KL.

The cost in KL of every width is measured on the float model, an exact knapsack makes plans of it, and these are
calibrated in full beside the best uniform plan that fits. The one with the smallest KL on held-out tokens is kept, and
reconstructed if that is asked for: on those tokens a budget is never worse than one format for all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from q3edge import progress
from q3edge.architecture.tensors import FINAL_NORM
from q3edge.calibration.budget.sensitivity import Sensitivity
from q3edge.calibration.data import CalibrationSet
from q3edge.calibration.layers.layerwise import LayerwiseCalibration, held_out_rows
from q3edge.calibration.layers.scheme_groups import SchemeGroup
from q3edge.calibration.layers.streams import StateStream
from q3edge.calibration.layers.tables import ReplacedHead
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.checkpoint import Checkpoint
from q3edge.machine.cpu import has_fast_bfloat16
from q3edge.pipeline.quantize.calibrate import (
    Budget,
    CalibrationOptions,
    SolvedLayers,
    calibration_inputs,
    load_tokens,
    solved_layers,
)
from q3edge.pipeline.quantize.forecast import Workload
from q3edge.pipeline.quantize.outlook import outlook
from q3edge.pipeline.quantize.plans import (
    PLANS,
    Plan,
    always_float,
    check_budget,
    label,
    largest_plan,
    make_plans,
    widths_of,
)
from q3edge.pipeline.quantize.targets import Target
from q3edge.reference.divergence import mean_kl
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.reference.weights import normalize, read_tensor
from q3edge.storage.code_digest import code_digest

_COSTS, _HELD_OUT_KL = "costs", "judged"


@contextmanager
def search_plans(
    checkpoint: Checkpoint,
    calibration: CalibrationOptions,
    budget: Budget,
    target: Target,
    model_digest: str,
    work: Path,
    *,
    exported: bool = False,
    int8_cache: bool = False,
) -> Iterator[SolvedLayers]:
    """Calibrate in `work` by the best recipe within `budget`, or continue where an earlier process stopped.

    target: the format whose bytes count. exported, int8_cache: whether an ONNX model and the scales of an int8 KV cache
    follow (for the forecast of disk and time); the recipe that is found does not set `kv_cache`. UsageError: nothing
    fits the budget, the float model fits it, or unfinished work of other inputs lies in `work`. ResourceError: another
    process is at it, or the disk cannot hold it.
    """
    config = checkpoint.config
    limit = budget.bytes_for(config)
    check_budget(target, limit)
    left = (notice,) if (notice := always_float(target)) else ()
    tokens = load_tokens(checkpoint, calibration)
    sequences, length = tokens.token_ids.shape
    schemes = largest_plan(target).recipe.resolve(config)
    load = Workload(
        config, schemes, sequences, length,
        reconstructed=calibration.reconstruct, tuned=calibration.tune, exported=exported, int8_cache=int8_cache,
    )  # fmt: skip
    inputs = calibration_inputs(model_digest, tokens, calibration)
    cost_lines = outlook(load, work, bfloat16=has_fast_bfloat16(), plans=PLANS)
    plan_inputs = {
        "budget": str(limit),
        "exported for": type(target).__name__,
        "int8 KV cache": str(int8_cache),
        "q3edge's code that makes plans": code_digest("exporters", "pipeline.quantize"),
    }
    with WorkFolder(work, inputs | plan_inputs, restart=calibration.restart) as work_folder:
        for line in (*cost_lines, *(f"{notice.count} {notice.detail}" for notice in left)):
            progress.note(line)
        search = _PlanSearch(checkpoint, target, tokens, inputs, work_folder)
        plans = make_plans(target, search.costs(), limit)
        kl = search.evaluate(plans)
        best = min(plans, key=lambda plan: kl[plan.name])  # the uniform plan is first, and kept where all are alike
        if calibration.reconstruct:
            plans.append(best.reconstructed)
            kl = search.evaluate(plans)
            best = min(plans, key=lambda plan: kl[plan.name])
        progress.note(f"kept: {best.name} plan, KL {kl[best.name]:.4f} on held-out tokens")
        with search.calibrate(best) as (calibrated, _):
            solved = solved_layers(best.recipe, calibrated, tokens)
            metrics = solved.metrics | {"allocation": _to_json(limit, best, plans, kl)}
            yield replace(solved, notices=solved.notices + left, metrics=metrics)


class _PlanSearch:
    """Search for the best plan; finished results are durable in `work_folder`, each plan's in a folder of its own."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        target: Target,
        tokens: CalibrationSet,
        inputs: dict[str, str],
        work_folder: WorkFolder,
    ) -> None:
        self._checkpoint, self._target, self._ids, self._inputs = checkpoint, target, tokens.token_ids, inputs
        self._work_folder = work_folder
        self._held_out = held_out_rows(len(tokens.token_ids))
        self._bfloat16 = has_fast_bfloat16()

    def costs(self) -> dict[SchemeGroup, Sequence[float]]:
        """Measure the cost in nats of KL of every scheme group at every width."""
        widths = widths_of(self._target)
        rounded = {group: found for group, found in widths.items() if len(found) > 1}  # others are float at no cost
        stored = self._work_folder.recall(_COSTS)
        if stored is None:
            measure = Sensitivity(
                self._checkpoint, rounded, self._ids, self._held_out, self._work_folder.folder, bfloat16=self._bfloat16
            )
            stored = {group.name: values for group, values in measure.run().items()}
            self._work_folder.store(_COSTS, stored)
        return {group: stored[group.name] if group in rounded else [0.0] for group in widths}

    def evaluate(self, plans: Sequence[Plan]) -> dict[str, float]:
        """Calibrate every plan; returns its mean KL in nats on held-out tokens. Only the best plan's folder stays."""
        kl: dict[str, float] = self._work_folder.recall(_HELD_OUT_KL) or {}
        for number, plan in enumerate(plans, 1):
            if plan.name not in kl:
                progress.note(
                    f"plan {number} of {len(plans)}, {plan.name}: {plan.size / 1e6:.1f} MB, "
                    f"KL {plan.predicted_kl:.4f} predicted"
                )
                with self.calibrate(plan) as (calibrated, states):
                    kl[plan.name] = self._held_out_kl(calibrated, states)
                self._work_folder.store(_HELD_OUT_KL, kl)
            best = min(kl, key=lambda name: kl[name])
            for name in kl:
                if name != best:
                    shutil.rmtree(self._work_folder.folder / name, ignore_errors=True)
        return kl

    @contextmanager
    def calibrate(self, plan: Plan) -> Iterator[tuple[LayerwiseCalibration, StateStream]]:
        """Calibrate by one plan; yields the finished calibration and the hidden states after the last layer."""
        schemes = plan.recipe.resolve(self._checkpoint.config)
        inputs = self._inputs | {"recipe": plan.recipe.digest}
        with WorkFolder(self._work_folder.folder / plan.name, inputs) as work_folder:
            calibration = LayerwiseCalibration(
                self._checkpoint, schemes, self._ids, work_folder, bfloat16=self._bfloat16, reconstruct=plan.reconstruct
            )
            states = calibration.run()
            try:
                yield calibration, states
            finally:
                states.close()

    def _held_out_kl(self, calibrated: LayerwiseCalibration, states: StateStream) -> float:
        source, table = self._checkpoint, calibrated.head()
        norm = read_tensor(source, FINAL_NORM)
        own = states.read(slice(len(self._ids) - self._held_out, len(self._ids))).flatten(0, 1)
        head = LogitsHead(source if table is None else ReplacedHead(source, table))
        return mean_kl(LogitsHead(source), self._float_states, head, [normalize(own, norm, source.config)])[0]

    @cached_property
    def _float_states(self) -> torch.Tensor:
        """Hidden states of the float model after the final norm, on held-out tokens, float32 [T, H]."""
        ids = self._ids[len(self._ids) - self._held_out :]
        return hidden_states(self._checkpoint, ids, label="float model").flatten(0, 1)


def _to_json(limit: int, best: Plan, plans: Sequence[Plan], kl: Mapping[str, float]) -> dict[str, Any]:
    return {
        "budget_bytes": limit,
        "plan": best.name,
        "plans": {
            plan.name: {"bytes": plan.size, "predicted_kl": plan.predicted_kl, "kl": kl[plan.name]} for plan in plans
        },
        "units": {group.name: label(scheme) for group, scheme in best.schemes.items()},
    }
