# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices that a layout is going to make, and what Slurm would make of them: judged before any GPU is touched.

Ids, UUIDs and capability files of instances to come are nobody's to know. What decides a configuration of Slurm is
known: the types, and how many there will be of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..gpu.model import ComputeInstance, Gpu, GpuInstance, Inventory, Problem
from ..mig.apply_prepare import Prepared
from ..mig.apply_state import ExactInstance, ExactState
from ..mig.catalog import Board
from ..mig.plan import compute_slices
from .plan import GresMode, GresRefusedError, plan_gres

#: Problems that a change of the cut ends.
_OF_THE_CUT = frozenset({"mig_without_instances", "mode_change_pending"})

_ALL_SLICES = re.compile(r"^(\d+)g\.")


@dataclass(frozen=True)
class Offer:
    """What Slurm is to be told; see :func:`.plan.plan_gres`."""

    mode: GresMode
    wanted: str | None = None
    allow_unlisted: bool = False


def misfit(prepared: Prepared, offer: Offer) -> str | None:
    """Why Slurm could not be told so after the change; ``None`` where it can, and where nothing changes."""
    if not prepared.jobs or prepared.refusals:
        return None
    try:
        plan_gres(foreseen(prepared), mode=offer.mode, wanted=offer.wanted, allow_unlisted=offer.allow_unlisted)
    except GresRefusedError as refused:
        return f"Slurm could not be told of the GPUs after this change, so none was changed: {refused}"
    return None


def foreseen(prepared: Prepared) -> Inventory:
    """The inventory after the change, when nothing goes wrong and a reboot, where one is needed, has been."""
    wanted = {job.pci_address: job.wanted for job in prepared.jobs}
    boards = {outcome.gpu.pci_address: outcome.board for outcome in prepared.plan.outcomes}
    gpus = []
    problems = [
        one for one in prepared.inventory.problems if one.code not in _OF_THE_CUT or one.pci_address not in wanted
    ]
    for gpu in prepared.inventory.gpus:
        state = wanted.get(gpu.pci_address)
        gpus.append(gpu if state is None else _after(gpu, state, boards[gpu.pci_address]))
        if state is not None and state.enabled and not state.instances:
            problems.append(
                Problem(
                    "mig_without_instances",
                    f"MIG mode will be on for GPU {gpu.pci_address}, and the layout makes no instance there, so no job "
                    "could use it: give it `mig-devices`, or say `mig-enabled: false`",
                    gpu.pci_address,
                )
            )
    return replace(prepared.inventory, gpus=tuple(gpus), problems=tuple(problems))


def _after(gpu: Gpu, state: ExactState, board: Board | None) -> Gpu:
    instances: list[GpuInstance] = []
    for number, one in enumerate(state.instances):
        kept = next((old for old in gpu.gpu_instances if _is(old, one)), None)
        first = sum(len(before.compute_instances) for before in instances)
        instances.append(_made(number, one, gpu, board, first) if kept is None else _moved(kept, first))
    return replace(
        gpu, mig=replace(gpu.mig, current=state.enabled, pending=state.enabled), gpu_instances=tuple(instances)
    )


def _is(old: GpuInstance, one: ExactInstance) -> bool:
    split = sorted((compute_slices(ci) or 0 for ci in old.compute_instances), reverse=True)
    return (old.profile_id, old.placement, tuple(split)) == (one.profile_id, one.placement, one.split)


def _moved(kept: GpuInstance, first: int) -> GpuInstance:
    """The driver numbers MIG devices anew."""
    cis = sorted(kept.compute_instances, key=lambda ci: (ci.mig_index is None, ci.mig_index))
    return replace(kept, compute_instances=tuple(replace(ci, mig_index=first + place) for place, ci in enumerate(cis)))


def _made(number: int, one: ExactInstance, gpu: Gpu, board: Board | None, first: int) -> GpuInstance:
    profile = None if board is None else board.profile(one.profile_id)
    return GpuInstance(
        id=number,
        profile_id=one.profile_id,
        profile=one.profile,
        placement=one.placement,
        memory_mib=None if profile is None else profile.memory_mib,
        compute_instances=tuple(_parts(one, gpu, first)),
    )


def _parts(one: ExactInstance, gpu: Gpu, first: int) -> Iterator[ComputeInstance]:
    whole = _ALL_SLICES.match(one.profile)
    for place, size in enumerate(one.split):
        # NVML's own form; a compute instance with all slices does not say how many these are
        part = "" if whole is None or int(whole[1]) == size else f"{size}c."
        yield ComputeInstance(
            id=place,
            profile_id=0,
            name=f"{gpu.name} MIG {part}{one.profile}",
            mig_index=first + place,
            device_files=(f"/dev/nvidia{gpu.minor}", f"slot {one.placement.start}", f"part {place}"),
        )
