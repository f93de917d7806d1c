# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change, planned or done, as plain values and texts: what the module returns and the command prints.

What is shown before a change and what is returned after it come from the same functions, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..gpu.model import Gpu, Inventory
from .apply import Outcome
from .apply_gpu import GpuResult
from .apply_prepare import Prepared
from .apply_state import ExactState, exact_gpu
from .steps import DestroyGpuInstance, step_to_dict


def machine_text(inventory: Inventory, instead: Mapping[str, ExactState] | None = None) -> str:
    """Each GPU with its mode and a line per instance: the form in which two states of a machine are compared.

    :param instead: states to be shown in place of the inventory's, by PCI address.
    """
    lines: list[str] = []
    for gpu in inventory.gpus:
        lines += _gpu_lines(gpu, (instead or {}).get(gpu.pci_address, exact_gpu(gpu)))
    return "".join(f"{line}\n" for line in lines)


def _gpu_lines(gpu: Gpu, state: ExactState | None) -> list[str]:
    name = f"{gpu.pci_address} {gpu.name or f'NVIDIA {gpu.device_id}'}"
    if state is None:
        return [f"{name}: {'MIG state not known' if gpu.mig.capable else 'whole, no MIG'}"]
    mode = "MIG on" if state.enabled else "MIG off"
    if state.pending != state.enabled:
        mode += f", {'on' if state.pending else 'off'} after a reset or reboot"
    return [f"{name}: {mode}", *(f"  {one}" for one in state.instances)]


def predicted(prepared: Prepared) -> dict[str, ExactState]:
    """What GPUs that are going to change are afterwards when nothing goes wrong, by PCI address."""
    return {job.pci_address: prepared.predicted(job) for job in prepared.jobs}


def planned_steps(prepared: Prepared) -> list[dict[str, Any]]:
    """The steps that :func:`.apply.apply` is going to carry out, in order, each with its GPU."""
    return [
        {"pci_address": job.pci_address, **step_to_dict(step)}
        for job in prepared.jobs
        for step in prepared.steps_now(job)
    ]


def done_steps(outcome: Outcome) -> list[dict[str, Any]]:
    """The steps that were carried out, in the same form; without those of a way back."""
    return [
        {"pci_address": result.pci_address, **step_to_dict(step)} for result in outcome.results for step in result.steps
    ]


def machine_state(inventory: Inventory) -> list[dict[str, Any]]:
    """Each GPU with mode and instances. ``mig_enabled`` is ``None`` where a GPU has no MIG or does not tell."""
    return [
        {
            "pci_address": gpu.pci_address,
            "index": gpu.index,
            "model": gpu.name,
            "mig_capable": gpu.mig.capable,
            "mig_enabled": gpu.mig.current if gpu.mig.capable else None,
            "mig_pending": gpu.mig.pending if gpu.mig.capable else None,
            "instances": [
                {
                    "id": one.id,
                    "profile": one.profile,
                    "profile_id": one.profile_id,
                    "start": one.placement.start,
                    "size": one.placement.size,
                    "uuids": [ci.uuid for ci in one.compute_instances],
                }
                for one in gpu.gpu_instances
            ],
        }
        for gpu in inventory.gpus
    ]


def kept_and_destroyed(prepared: Prepared) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The GPU instances that exist now and stay, and those that go."""
    kept: list[dict[str, Any]] = []
    destroyed: list[dict[str, Any]] = []
    gone = {
        (job.pci_address, step.gi_id)
        for job in prepared.jobs
        for step in prepared.steps_now(job)
        if isinstance(step, DestroyGpuInstance)
    }
    for gpu in prepared.inventory.gpus:
        for one in gpu.gpu_instances:
            entry = {"pci_address": gpu.pci_address, "id": one.id, "profile": one.profile, "start": one.placement.start}
            (destroyed if (gpu.pci_address, one.id) in gone else kept).append(entry)
    return kept, destroyed


def result_report(result: GpuResult) -> dict[str, Any]:
    """How it went for one GPU."""
    return {"pci_address": result.pci_address, "state": str(result.end), "message": result.message}
