# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as a picture: the machine as it is afterwards, with what is kept and what is new."""

from __future__ import annotations

from dataclasses import replace

from ..gpu.model import ComputeInstance, Gpu, GpuInstance, Inventory, MigState
from .draw import draw
from .explain import Infeasible
from .machine import GpuOutcome, MachinePlan
from .plan import PlannedInstance


def draw_plan(plan: MachinePlan, width: int = 80, ascii_only: bool = False) -> str:
    """Draw the machine after *plan*. A GPU whose demand can't be met, and one left alone, is drawn as it is now."""
    labels: dict[str, str] = {}
    gpus = tuple(_after(outcome, labels) for outcome in plan.outcomes)
    return draw(Inventory(gpus=gpus), labels, width, ascii_only)


def _after(outcome: GpuOutcome, labels: dict[str, str]) -> Gpu:
    """The GPU to draw. Its UUIDs are made up: they tie labels to boxes and are never shown."""
    gpu, result = outcome.gpu, outcome.result
    key = gpu.pci_address
    # A board is drawn whole by its model where no driver has named it.
    named = replace(gpu, uuid=key, name=gpu.name or (outcome.board.model if outcome.board else None))
    if result is None or isinstance(result, Infeasible):
        labels[key] = "left alone" if result is None else "not changed: see problems"
        return replace(
            named, gpu_instances=tuple(_as_it_is(one, key, labels, labels[key]) for one in gpu.gpu_instances)
        )
    labels[key] = "whole" if result.changed else "whole, no change"
    mode = result.demand.enabled
    instances = tuple(_planned(one, number, key, labels) for number, one in enumerate(result.instances))
    return replace(named, mig=MigState(gpu.mig.capable, mode, mode), gpu_instances=instances)


def _as_it_is(one: GpuInstance, key: str, labels: dict[str, str], label: str) -> GpuInstance:
    cis = tuple(replace(ci, uuid=f"{key}/{one.id}/{ci.id}") for ci in one.compute_instances)
    labels.update({ci.uuid: label for ci in cis if ci.uuid is not None})
    return replace(one, compute_instances=cis)


def _planned(one: PlannedInstance, number: int, key: str, labels: dict[str, str]) -> GpuInstance:
    cis = []
    for position, size in enumerate(one.want.split):
        uuid = f"{key}/{number}/{position}"
        word = "new" if one.gi_id is None else "kept"
        labels[uuid] = word if len(one.want.split) == 1 else f"{size}c {word}"
        cis.append(ComputeInstance(position, 0, uuid=uuid))
    return GpuInstance(number, one.want.profile_id, one.profile, one.placement, compute_instances=tuple(cis))
