# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: from what a GPU is cut into and what it shall be cut into to ordered steps. Pure: no input or output.

Plans do not name their GPU, so equal GPUs share one: the search runs once per distinct (board, state, demand).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from ..gpu.model import ComputeInstance, Gpu, GpuInstance, MigState, Placement
from .catalog import Board, ModeSemantics
from .demand import Demand, Want
from .explain import Infeasible, why
from .grid import Grid, grid_of
from .solve import Held, Solution, solve
from .steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    ResetGpu,
    SetMode,
    Step,
)

#: Compute slices of NVML's compute instance profiles (``NVML_COMPUTE_INSTANCE_PROFILE_*`` of nvml.h).
CI_PROFILE_SLICES = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7, 5: 8, 6: 6, 7: 1}


@dataclass(frozen=True)
class GpuState:
    """What the planner needs to know of a GPU now. *busy*: a process uses the GPU as a whole (MIG mode off)."""

    mig: MigState
    held: tuple[Held, ...] = ()
    busy: bool = False


@dataclass(frozen=True)
class PlannedInstance:
    """A GPU instance as it is after the plan. *gi_id* is ``None`` when the plan makes it, else that of the kept one."""

    want: Want
    profile: str
    placement: Placement
    gi_id: int | None = None


@dataclass(frozen=True)
class GpuPlan:
    """The way from a GPU's present state to its demand.

    *steps* are in order; *instances* is the state afterwards, ordered by slot; *kept* and *destroyed* are ids of GPU
    instances that exist now.
    """

    demand: Demand
    steps: tuple[Step, ...] = ()
    instances: tuple[PlannedInstance, ...] = ()
    kept: tuple[int, ...] = ()
    destroyed: tuple[int, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps)

    @property
    def reset_required(self) -> bool:
        """Whether the GPU must be reset (or the machine rebooted) on the way."""
        return any(isinstance(step, ResetGpu) for step in self.steps)


@dataclass(frozen=True)
class Conditions:
    """What a plan for one GPU has to respect.

    *busy_instances*: ids of GPU instances in use, by themselves or through a compute instance. *busy*: processes use
    the GPU as a whole. *allow_busy*: both may be destroyed all the same. *driver_version*: the running driver,
    ``None`` to leave the question out.
    """

    busy_instances: frozenset[int] = field(default_factory=frozenset)
    busy: bool = False
    allow_busy: bool = False
    driver_version: str | None = None


def plan_gpu(
    gpu: Gpu, board: Board | None, demand: Demand, conditions: Conditions | None = None
) -> GpuPlan | Infeasible:
    """Plan the way of *gpu* to *demand*, which names profiles of *board* (see :func:`.live.overlay` for a live one).

    *board* is ``None`` for a board that neither catalogue nor driver describe: it can be switched off, not cut.
    """
    given = conditions or Conditions()
    state = state_of(gpu, given.busy_instances, given.busy)
    return plan_state(board, state, demand, given.allow_busy, given.driver_version)


def state_of(gpu: Gpu, busy_instances: Collection[int] = (), busy: bool = False) -> GpuState:
    """The planner's view of *gpu*: without names and files, so that equal states compare equal."""
    held = (_held(one, one.id in busy_instances) for one in gpu.gpu_instances)
    return GpuState(gpu.mig, tuple(sorted(held, key=lambda one: (one.start, one.gi_id))), busy)


def _held(one: GpuInstance, busy: bool) -> Held:
    # Sorted, for the order in which a driver lists them means nothing.
    cis = tuple(sorted((ci.id, compute_slices(ci)) for ci in one.compute_instances))
    name = one.profile or f"profile {one.profile_id}"
    return Held(one.id, one.profile_id, name, one.placement.start, one.placement.size, cis, busy)


def compute_slices(ci: ComputeInstance) -> int | None:
    """Compute slices of *ci*, by its profile or else (a profile newer than this table) by its name; ``None``: unknown.

    NVML names a compute instance ``... MIG 1c.3g.40gb``, and without the first part when it has all slices.
    """
    known = CI_PROFILE_SLICES.get(ci.profile_id)
    if known is not None or ci.name is None:
        return known
    named = re.search(r"MIG (?:(\d+)c\.)?(\d+)g\.", ci.name)
    return int(named[1] or named[2]) if named else None


@lru_cache(maxsize=65536)
def plan_state(
    board: Board | None, state: GpuState, demand: Demand, allow_busy: bool = False, driver_version: str | None = None
) -> GpuPlan | Infeasible:
    """What :func:`plan_gpu` does, on values that tell equal GPUs apart from different ones only."""
    if not state.mig.capable:
        return _not_capable(board, demand)
    if state.mig.current is None:
        return Infeasible(
            "state_unknown",
            "expected the driver to tell whether MIG mode is on, found no answer: get the driver working and read the "
            "GPUs again, or plan for the board by its name",
        )
    if not demand.enabled:
        return _plan_off(board, state, demand, allow_busy)
    if board is None:
        return Infeasible(
            "board_unknown",
            "expected a board of the MIG catalogue or a driver that lists its profiles, found neither: plan on the "
            "machine itself with its driver running",
        )
    if driver_version is not None and board.min_driver is not None and _older(driver_version, board.min_driver):
        return Infeasible(
            "driver_too_old",
            f"expected driver {board.min_driver} or newer for MIG on {board.model}, found {driver_version}: install a "
            "newer one (Debian's own may be too old for this board, NVIDIA's repository has newer ones)",
        )
    return _plan_on(grid_of(board), state, demand, allow_busy)


def _not_capable(board: Board | None, demand: Demand) -> GpuPlan | Infeasible:
    if not demand.enabled:
        return GpuPlan(demand)
    if board is not None:
        return Infeasible(
            "not_mig_capable",
            f"expected MIG on {board.model}, found a driver that says this GPU can't do it: RTX PRO boards need a "
            "recent vBIOS and compute display mode, a virtual machine may get the GPU without MIG",
        )
    return Infeasible(
        "not_mig_capable",
        "expected a GPU that can do MIG, found one that can't: leave it out of the layout, or say `mig-enabled: false`",
    )


def _plan_off(board: Board | None, state: GpuState, demand: Demand, allow_busy: bool) -> GpuPlan | Infeasible:
    busy = [one for one in state.held if one.busy]
    if busy and not allow_busy:
        names = ", ".join(f"{one.profile} at slot {one.start} (GPU instance {one.gi_id})" for one in busy)
        return Infeasible(
            "busy",
            f"MIG mode can't be switched off while processes use {names}: wait until they have ended, or allow busy "
            "instances to be destroyed",
        )
    steps = (*_teardown(state.held), *_mode_steps(board, state, enabled=False))
    return GpuPlan(demand, steps, (), (), tuple(one.gi_id for one in state.held))


def _plan_on(grid: Grid, state: GpuState, demand: Demand, allow_busy: bool) -> GpuPlan | Infeasible:
    if not state.mig.current and state.busy and not allow_busy:
        return Infeasible(
            "busy",
            "MIG mode can't be switched on while processes use the GPU: wait until they have ended, or allow busy GPUs "
            "to be changed",
        )
    solution = None
    if grid.excess(want.profile_id for want in demand.wants) is None:
        solution = solve(grid, state.held, demand.wants, allow_busy)
    if solution is None:
        seen = () if allow_busy else state.held
        return why(grid, seen, demand.wants)
    return _assemble(grid, state, demand, solution)


def _assemble(grid: Grid, state: GpuState, demand: Demand, solution: Solution) -> GpuPlan:
    kept = {state.held[number]: want for number, want in solution.kept}
    gone = tuple(one for one in state.held if one not in kept)
    rebuilt = {one: want for one, want in kept.items() if one.split != want.split}
    steps: list[Step] = [step for one in rebuilt for step in _compute_teardown(one)]
    steps += _teardown(gone)
    steps += _mode_steps(grid.board, state, enabled=True)
    instances = [
        PlannedInstance(want, one.profile, Placement(one.start, one.size), one.gi_id) for one, want in kept.items()
    ]
    for one, want in rebuilt.items():
        place = Placement(one.start, one.size)
        steps += (CreateComputeInstance(size, one.profile, place, one.gi_id) for size in want.split)
    for want, start in solution.created:
        profile = grid.profile(want.profile_id)
        place = Placement(start, profile.memory_slots)
        steps.append(CreateGpuInstance(profile.id, profile.name, place))
        steps += (CreateComputeInstance(size, profile.name, place) for size in want.split)
        instances.append(PlannedInstance(want, profile.name, place))
    return GpuPlan(
        demand,
        tuple(steps),
        tuple(sorted(instances, key=lambda one: one.placement.start)),
        tuple(one.gi_id for one in kept),
        tuple(one.gi_id for one in gone),
    )


def _teardown(gone: tuple[Held, ...]) -> list[Step]:
    """Compute instances of all of them first: a GPU instance that still has one is not destroyed by the driver."""
    steps: list[Step] = [step for one in gone for step in _compute_teardown(one)]
    steps += (
        DestroyGpuInstance(one.gi_id, one.profile_id, one.profile, Placement(one.start, one.size)) for one in gone
    )
    return steps


def _compute_teardown(one: Held) -> list[Step]:
    place = Placement(one.start, one.size)
    return [DestroyComputeInstance(one.gi_id, ci_id, one.profile, place) for ci_id, _ in one.cis]


def _mode_steps(board: Board | None, state: GpuState, enabled: bool) -> list[Step]:
    """Ampere makes a change pending until a reset; later boards change at once and have nothing pending."""
    current, pending = state.mig.current, state.mig.pending
    at_once = board is not None and board.mode_semantics is ModeSemantics.HOPPER
    wanted_next = current if pending is None else pending
    steps: list[Step] = []
    if wanted_next != enabled or (at_once and current != enabled):
        steps.append(SetMode(enabled))
    if current != enabled and not at_once:
        steps.append(ResetGpu(enabled))
    return steps


def _older(found: str, expected: str) -> bool:
    """Whether driver version *found* is older than *expected*; words in a version (``550.54-server``) do not count."""
    return _numbers(found) < _numbers(expected)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.replace("-", ".").split(".") if part.isdecimal())
