# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of one GPU exactly, with every placement: what a change must end in, and what it is rolled back to.

Ids are not part of it: a GPU instance that is made again at its old place gets whatever id the driver likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..gpu.control import LiveInstance, LiveState
from ..gpu.model import Gpu, MigState, Placement
from .plan import GpuPlan, compute_slices
from .steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    ResetGpu,
    SetMode,
    Step,
)


@dataclass(frozen=True)
class ExactInstance:
    """A GPU instance by profile and place. *split* lists the slices of its compute instances, largest first."""

    profile_id: int
    placement: Placement
    split: tuple[int, ...]
    profile: str = field(default="", compare=False)

    def __str__(self) -> str:
        first, last = self.placement.start, self.placement.start + self.placement.size - 1
        where = f"slot {first}" if first == last else f"slots {first}-{last}"
        if not self.split:
            return f"{self.profile} at {where} without compute instance"
        if len(self.split) == 1:
            return f"{self.profile} at {where}"
        return f"{self.profile} at {where} in {'+'.join(f'{size}c' for size in self.split)}"


@dataclass(frozen=True)
class ExactState:
    """MIG mode now and after the next reset, and the instances by slot."""

    enabled: bool
    pending: bool
    instances: tuple[ExactInstance, ...] = ()

    @property
    def mig(self) -> MigState:
        """The mode as the inventory has it."""
        return MigState(capable=True, current=self.enabled, pending=self.pending)

    def __str__(self) -> str:
        mode = f"MIG {'on' if self.enabled else 'off'}"
        if self.pending != self.enabled:
            mode += f" (going {'on' if self.pending else 'off'} with the next reset or reboot)"
        if not self.enabled:
            return mode
        return f"{mode} with {', '.join(map(str, self.instances)) or 'no instances'}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; :meth:`from_dict` reads it back."""
        return {
            "enabled": self.enabled,
            "pending": self.pending,
            "instances": [{**asdict(one), "split": list(one.split)} for one in self.instances],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExactState:
        """Rebuild a state. :raises KeyError, TypeError: it is none."""
        instances = tuple(
            ExactInstance(int(one["profile_id"]), Placement(**one["placement"]), tuple(one["split"]), one["profile"])
            for one in data["instances"]
        )
        return cls(bool(data["enabled"]), bool(data["pending"]), instances)


def exact(live: LiveState) -> ExactState:
    """What a GPU is now."""
    found = (
        ExactInstance(one.profile_id, one.placement, _split(one), one.profile or f"profile {one.profile_id}")
        for one in live.instances
    )
    return ExactState(bool(live.mig.current), bool(live.mig.pending), _sorted(found))


def exact_gpu(gpu: Gpu) -> ExactState | None:
    """What a GPU was when its inventory was read; ``None`` where that does not tell all of it."""
    if not gpu.mig.capable or gpu.mig.current is None:
        return None
    instances = []
    for one in gpu.gpu_instances:
        sizes = [compute_slices(ci) for ci in one.compute_instances]
        split = tuple(sorted((size for size in sizes if size is not None), reverse=True))
        if len(split) != len(sizes):
            return None
        name = one.profile or f"profile {one.profile_id}"
        instances.append(ExactInstance(one.profile_id, one.placement, split, name))
    return ExactState(gpu.mig.current, bool(gpu.mig.pending), _sorted(instances))


def wanted_by(plan: GpuPlan) -> ExactState:
    """What a GPU is after *plan*."""
    planned = (
        ExactInstance(one.want.profile_id, one.placement, tuple(sorted(one.want.split, reverse=True)), one.profile)
        for one in plan.instances
    )
    return ExactState(plan.demand.enabled, plan.demand.enabled, _sorted(planned))


def steps_to(live: LiveState, target: ExactState, at_once: bool) -> tuple[Step, ...]:
    """The way from *live* back to *target*, all placements as they were; what is right already is left alone.

    :param at_once: whether a mode change of this board needs no reset.
    """
    missing = Counter(target.instances)
    gone: list[LiveInstance] = []
    incomplete: list[tuple[LiveInstance, tuple[int, ...]]] = []
    steps: list[Step] = []
    for one in live.instances:
        match = next((wanted for wanted in missing if _same_place(one, wanted) and missing[wanted]), None)
        if match is None or live.mig.current != target.enabled:
            gone.append(one)
            continue
        missing[match] -= 1
        lacking = _lacking(one, match.split)
        if lacking is None:
            steps += _compute_teardown(one)
            lacking = match.split
        if lacking:
            incomplete.append((one, lacking))
    steps += (step for one in gone for step in _compute_teardown(one))
    steps += (DestroyGpuInstance(one.gi_id, one.profile_id, _profile(one), one.placement) for one in gone)
    steps += _mode_steps(live, target, at_once)
    for one, lacking in incomplete:
        steps += (CreateComputeInstance(size, _profile(one), one.placement, one.gi_id) for size in lacking)
    for wanted in missing.elements():
        steps.append(CreateGpuInstance(wanted.profile_id, wanted.profile, wanted.placement))
        steps += (CreateComputeInstance(size, wanted.profile, wanted.placement) for size in wanted.split)
    return tuple(steps)


def _mode_steps(live: LiveState, target: ExactState, at_once: bool) -> list[Step]:
    current, pending = bool(live.mig.current), bool(live.mig.pending)
    steps: list[Step] = []
    if current != target.enabled:
        if at_once or pending != target.enabled:
            steps.append(SetMode(target.enabled))
        if not at_once:
            steps.append(ResetGpu(target.enabled))
        pending = target.enabled
    if pending != target.pending:
        steps.append(SetMode(target.pending))
    return steps


def _same_place(one: LiveInstance, wanted: ExactInstance) -> bool:
    return (one.profile_id, one.placement) == (wanted.profile_id, wanted.placement)


def _lacking(one: LiveInstance, split: tuple[int, ...]) -> tuple[int, ...] | None:
    """Compute instances to be added; ``None`` when those that are there must go first.

    Unequal ones have to be arranged together, so one that is missing means all of them.
    """
    present, wanted = Counter(_split(one)), Counter(split)
    if present == wanted:
        return ()
    if present - wanted or (present and len(set(split)) > 1):
        return None
    return tuple(sorted((wanted - present).elements(), reverse=True))


def _compute_teardown(one: LiveInstance) -> list[Step]:
    return [DestroyComputeInstance(one.gi_id, ci_id, _profile(one), one.placement) for ci_id, _ in one.cis]


def _split(one: LiveInstance) -> tuple[int, ...]:
    return tuple(sorted((size for _, size in one.cis), reverse=True))


def _profile(one: LiveInstance) -> str:
    return one.profile or f"profile {one.profile_id}"


def _sorted(instances: Any) -> tuple[ExactInstance, ...]:
    return tuple(sorted(instances, key=lambda one: (one.placement.start, one.profile_id)))
