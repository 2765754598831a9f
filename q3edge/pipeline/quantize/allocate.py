"""A budget of bytes as part of `quantize`: which scheme each unit of the model gets, decided by true KL.

Costs are measured on the float model, shared out by an exact knapsack, and the plans calibrated in full next to the
best uniform one that fits; whichever has the smallest KL on held-out tokens is kept, and is reconstructed if that is
asked for. So a budget never gives something worse, on those, than one format for all would have.
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
    check_budget,
    label,
    largest_plan,
    make_plans,
    widths_of,
)
from q3edge.reference.divergence import mean_kl
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.reference.weights import normalize, read_tensor
from q3edge.storage.code_digest import code_digest

_COSTS, _JUDGED = "costs", "judged"


@contextmanager
def search_plans(
    checkpoint: Checkpoint,
    calibration: CalibrationOptions,
    budget: Budget,
    model_digest: str,
    work: Path,
    *,
    exported: bool = False,
    int8_cache: bool = False,
) -> Iterator[SolvedLayers]:
    """Calibrate in `work` by the best recipe within `budget`, or go on where an earlier process stopped.

    exported, int8_cache: what follows, as in `Workload`; the recipe that is found says nothing of a cache.
    Errors are those of `run_calibration`, and UsageError where nothing fits the budget.
    """
    config, tokens = checkpoint.config, load_tokens(checkpoint, calibration)
    limit = budget.bytes_for(config)
    check_budget(config, limit, int8_cache=int8_cache)
    sequences, length = tokens.token_ids.shape
    schemes = largest_plan(config).recipe.resolve(config)
    load = Workload(
        config, schemes, sequences, length,
        reconstructed=calibration.reconstruct, tuned=calibration.tune, exported=exported, int8_cache=int8_cache,
    )  # fmt: skip
    inputs = calibration_inputs(model_digest, tokens, calibration)
    ahead = outlook(load, work, bfloat16=has_fast_bfloat16(), plans=PLANS)
    ours = {
        "budget": str(limit),
        "int8 KV cache": str(int8_cache),
        "q3edge's code that makes plans": code_digest("exporters", "pipeline.quantize"),
    }
    with WorkFolder(work, inputs | ours, restart=calibration.restart) as journal:
        for line in ahead:
            progress.note(line)
        contest = _PlanSearch(checkpoint, tokens, inputs, journal)
        plans = make_plans(config, contest.costs(), limit, int8_cache=int8_cache)
        kl = contest.judge(plans)
        best = min(plans, key=lambda plan: kl[plan.name])  # the uniform plan is first, and kept where all are alike
        if calibration.reconstruct:
            plans.append(best.reconstructed)
            kl = contest.judge(plans)
            best = min(plans, key=lambda plan: kl[plan.name])
        progress.note(f"kept: {best.name} plan, KL {kl[best.name]:.4f} on held-out tokens")
        with contest.walked(best) as (walk, _):
            found = solved_layers(best.recipe, walk, tokens)
            yield replace(found, metrics=found.metrics | {"allocation": _to_json(limit, best, plans, kl)})


class _PlanSearch:
    """Measures, calibrates and judges plans; what is finished is durable in `journal`, each plan in its own folder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokens: CalibrationSet,
        inputs: dict[str, str],
        journal: WorkFolder,
    ) -> None:
        self._checkpoint, self._ids, self._inputs = checkpoint, tokens.token_ids, inputs
        self._journal = journal
        self._held_out = held_out_rows(len(tokens.token_ids))
        self._bfloat16 = has_fast_bfloat16()

    def costs(self) -> dict[SchemeGroup, Sequence[float]]:
        """Nats by unit and width."""
        widths = widths_of(self._checkpoint.config)
        stored = self._journal.recall(_COSTS)
        if stored is None:
            measure = Sensitivity(
                self._checkpoint, widths, self._ids, self._held_out, self._journal.folder, bfloat16=self._bfloat16
            )
            stored = {unit.name: values for unit, values in measure.run().items()}
            self._journal.store(_COSTS, stored)
        return {unit: stored[unit.name] for unit in widths}

    def judge(self, plans: Sequence[Plan]) -> dict[str, float]:
        """KL on held-out tokens by the plan's name. Only the best plan's folder stays."""
        judged: dict[str, float] = self._journal.recall(_JUDGED) or {}
        for number, plan in enumerate(plans, 1):
            if plan.name not in judged:
                progress.note(
                    f"plan {number} of {len(plans)}, {plan.name}: {plan.size / 1e6:.1f} MB, "
                    f"KL {plan.predicted_kl:.4f} predicted"
                )
                with self.walked(plan) as (walk, states):
                    judged[plan.name] = self._held_out_kl(walk, states)
                self._journal.store(_JUDGED, judged)
            best = min(judged, key=lambda name: judged[name])
            for name in judged:
                if name != best:
                    shutil.rmtree(self._journal.folder / name, ignore_errors=True)
        return judged

    @contextmanager
    def walked(self, plan: Plan) -> Iterator[tuple[LayerwiseCalibration, StateStream]]:
        """The finished walk of a plan, and the hidden states behind the last layer."""
        schemes = plan.recipe.resolve(self._checkpoint.config)
        inputs = self._inputs | {"recipe": plan.recipe.digest}
        with WorkFolder(self._journal.folder / plan.name, inputs) as journal:
            walk = LayerwiseCalibration(
                self._checkpoint, schemes, self._ids, journal, bfloat16=self._bfloat16, reconstruct=plan.reconstruct
            )
            states = walk.run()
            try:
                yield walk, states
            finally:
                states.close()

    def _held_out_kl(self, walk: LayerwiseCalibration, states: StateStream) -> float:
        source, table = self._checkpoint, walk.head()
        norm = read_tensor(source, FINAL_NORM)
        own = states.read(slice(len(self._ids) - self._held_out, len(self._ids))).flatten(0, 1)
        head = LogitsHead(source if table is None else ReplacedHead(source, table))
        return mean_kl(LogitsHead(source), self._float_states, head, [normalize(own, norm, source.config)])[0]

    @cached_property
    def _float_states(self) -> torch.Tensor:
        """Of the float model after the final norm, on held-out tokens, float32 [T, H]."""
        ids = self._ids[len(self._ids) - self._held_out :]
        return hidden_states(self._checkpoint, ids, label="float model").flatten(0, 1)


def _to_json(limit: int, best: Plan, plans: Sequence[Plan], kl: Mapping[str, float]) -> dict[str, Any]:
    return {
        "budget_bytes": limit,
        "plan": best.name,
        "plans": {
            plan.name: {"bytes": plan.size, "predicted_kl": plan.predicted_kl, "kl": kl[plan.name]} for plan in plans
        },
        "units": {unit.name: label(scheme) for unit, scheme in best.schemes.items()},
    }
