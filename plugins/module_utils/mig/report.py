# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as plain lists, dicts and texts: what filters, modules and ``--json`` hand out."""

from __future__ import annotations

from typing import Any

from .explain import Infeasible, Nearest
from .machine import GpuOutcome, MachinePlan
from .picture import draw_plan
from .plan import GpuPlan
from .steps import step_to_dict


def report(plan: MachinePlan, drawing: bool = True, width: int = 80, ascii_only: bool = False) -> dict[str, Any]:
    """A JSON-ready form of *plan*.

    ``feasible``, ``changed``, ``reset_required``: of the whole machine. ``gpus``: one per GPU, see :func:`gpu_report`.
    ``problems``: all that can't be made, each with ``code``, ``message``, ``pci_address`` and ``nearest``. ``drawing``:
    the machine afterwards, as text.
    """
    gpus = [gpu_report(outcome) for outcome in plan.outcomes]
    missing = [{"code": one.code, "message": one.message, "pci_address": None, "nearest": None} for one in plan.missing]
    data = {
        "feasible": plan.feasible,
        "changed": plan.changed,
        "reset_required": any(gpu["reset_required"] for gpu in gpus),
        "gpus": gpus,
        "problems": [*missing, *(gpu["problem"] for gpu in gpus if gpu["problem"] is not None)],
    }
    if drawing:
        data["drawing"] = draw_plan(plan, width, ascii_only)
    return data


def gpu_report(outcome: GpuOutcome) -> dict[str, Any]:
    """One GPU of a plan.

    ``entry``: the place of the layout that names it, ``None`` for one left alone. ``mig_enabled`` and ``instances``
    (in order of slots): the state after the plan, ``None`` and empty where there is no plan. ``kept`` and
    ``destroyed``: ids of GPU instances that exist now. ``steps``: in order.
    """
    gpu, result = outcome.gpu, outcome.result
    data: dict[str, Any] = {
        "pci_address": gpu.pci_address,
        "index": gpu.index,
        "board": None if outcome.board is None else outcome.board.key,
        "model": gpu.name or (None if outcome.board is None else outcome.board.model),
        "entry": None if outcome.entry is None else outcome.entry.where(),
        "feasible": not isinstance(result, Infeasible),
        "problem": None,
    }
    if isinstance(result, Infeasible):
        data["problem"] = problem_report(result, gpu.pci_address)
    return data | _plan_report(result if isinstance(result, GpuPlan) else None)


def problem_report(problem: Infeasible, pci_address: str | None) -> dict[str, Any]:
    """A demand that can't be met: its code, message and the nearest layout that can."""
    return {
        "code": problem.code,
        "message": problem.describe(),
        "pci_address": pci_address,
        "nearest": None if problem.nearest is None else _nearest_report(problem.nearest),
    }


def _nearest_report(nearest: Nearest) -> dict[str, Any]:
    return {
        "mig_devices": dict(nearest.mig_devices),
        "dropped": dict(nearest.dropped),
        "added": dict(nearest.added),
        "changed": dict(nearest.changed),
    }


def _plan_report(plan: GpuPlan | None) -> dict[str, Any]:
    if plan is None:
        plain = {"mig_enabled": None, "changed": False, "reset_required": False}
        return plain | {name: [] for name in ("instances", "kept", "destroyed", "steps")}
    return {
        "mig_enabled": plan.demand.enabled,
        "changed": plan.changed,
        "reset_required": plan.reset_required,
        "instances": [
            {
                "profile": one.profile,
                "profile_id": one.want.profile_id,
                "start": one.placement.start,
                "size": one.placement.size,
                "compute_instances": list(one.want.split),
                "gpu_instance": one.gi_id,
            }
            for one in plan.instances
        ],
        "kept": list(plan.kept),
        "destroyed": list(plan.destroyed),
        "steps": [step_to_dict(step) for step in plan.steps],
    }
