# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for all GPUs of a machine: a layout's entries meet an inventory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..gpu.model import Gpu, Inventory, Problem
from .catalog import Board, board_by_key, board_for
from .demand import MIG_OFF, Demand
from .explain import Infeasible
from .layout import Entry
from .plan import Conditions, GpuPlan, plan_gpu
from .resolve import demand_on
from .targets import Target, targets


@dataclass(frozen=True)
class GpuOutcome:
    """What becomes of one GPU. *result* is ``None`` when it is left alone: no entry names it, or it can't do MIG."""

    gpu: Gpu
    board: Board | None
    entry: Entry | None
    result: GpuPlan | Infeasible | None


@dataclass(frozen=True)
class MachinePlan:
    """The outcomes in the order of the inventory. *missing*: GPUs that the layout names and the machine lacks."""

    outcomes: tuple[GpuOutcome, ...]
    missing: tuple[Problem, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether everything the layout asks for can be made."""
        return not self.missing and not any(isinstance(one.result, Infeasible) for one in self.outcomes)

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return any(isinstance(one.result, GpuPlan) and one.result.changed for one in self.outcomes)


def plan_machine(
    inventory: Inventory,
    entries: Sequence[Entry],
    conditions: Mapping[str, Conditions] | None = None,
    live_boards: Mapping[str, Board] | None = None,
    allow_missing: bool = False,
) -> MachinePlan:
    """Plan the way of every GPU of *inventory* to what *entries* say of it.

    :param conditions: what is busy, by PCI address. The driver version is the inventory's.
    :param live_boards: what the driver says of a GPU's profiles (:func:`.live.overlay`), by PCI address; the catalogue
        otherwise.
    :param allow_missing: whether the layout may name GPUs by index, address or UUID that the machine does not have.
    :raises LayoutError: two entries name one GPU.
    """
    known = [(live_boards or {}).get(gpu.pci_address) or board_of(gpu) for gpu in inventory.gpus]
    found = targets(entries, inventory.gpus, known)
    outcomes = []
    for target, board in zip(found.targets, known, strict=True):
        given = (conditions or {}).get(target.gpu.pci_address, Conditions())
        given = replace(given, driver_version=inventory.driver_version)
        outcomes.append(GpuOutcome(target.gpu, board, target.entry, _outcome(target, board, given)))
    return MachinePlan(tuple(outcomes), () if allow_missing else found.missing)


def board_of(gpu: Gpu) -> Board | None:
    """The catalogue's board of *gpu*: by its PCI device id, else by the class that was recorded of it."""
    by_id = board_for(gpu.device_id)
    if by_id is not None:
        return by_id
    return None if gpu.board is None else board_by_key(gpu.board)


def _outcome(target: Target, board: Board | None, given: Conditions) -> GpuPlan | Infeasible | None:
    entry = target.entry
    if entry is None:
        return None
    if not entry.mig_enabled:
        return plan_gpu(target.gpu, board, MIG_OFF, given)
    # A board that nobody describes has no profiles to look names up in; the planner says so, or finds a reason that
    # comes first.
    demand = Demand(True) if board is None else demand_on(board, True, entry.mig_devices)
    if isinstance(demand, Infeasible):
        first = plan_gpu(target.gpu, board, Demand(True), given)
        return first if isinstance(first, Infeasible) and first.code != "busy" else demand
    return plan_gpu(target.gpu, board, demand, given)
