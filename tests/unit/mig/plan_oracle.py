# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second opinion on plans: brute force that shares no code with the planner, and a strict GPU to carry plans out on.

The planner tries subsets of what is there and fills up around them. The oracle goes the other way: it lists every set
of placed instances that is the demand, and counts for each how much of the present it leaves standing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import permutations

from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    MigState,
    Placement,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, Profile, board_by_key
from ansible_collections.hpc.compute.plugins.module_utils.mig.demand import Demand, Want
from ansible_collections.hpc.compute.plugins.module_utils.mig.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    ResetGpu,
    SetMode,
    Step,
)

#: NVML's compute instance profile of each number of compute slices, written down a second time.
CI_PROFILE = {1: 0, 2: 1, 3: 2, 4: 3, 6: 6, 7: 4, 8: 5}
CI_SLICES = {profile: slices for slices, profile in CI_PROFILE.items()}

Place = tuple[int, int]  # profile id, start


def allowed(board: Board, placed: Iterable[Place]) -> bool:
    """Whether instances at these places can exist together."""
    profiles = {profile.id: profile for profile in board.profiles}
    slots: list[int] = []
    chosen: list[Profile] = []
    for profile_id, start in placed:
        profile = profiles[profile_id]
        chosen.append(profile)
        slots += range(start, start + profile.memory_slots)
        if start not in profile.starts:
            return False
    if len(slots) != len(set(slots)) or any(slot >= board.memory_slots for slot in slots):
        return False
    if sum(profile.compute_slices for profile in chosen) > board.compute_slices:
        return False
    if sum("+me" in profile.name for profile in chosen) > 1:
        return False
    if any(n > profiles[key].max_count for key, n in Counter(profile.id for profile in chosen).items()):
        return False
    if board.engine_budget is None:
        return True
    for engine in ("nvdec", "nvenc", "jpeg", "ofa"):
        used = sum(getattr(profile.engines, engine) for profile in chosen)
        if used > getattr(board.engine_budget, engine):
            return False
    return True


def arrangements(board: Board, profile_ids: Iterable[int]) -> set[frozenset[Place]]:
    """Every set of places that these instances can take, grown one instance at a time."""
    profiles = {profile.id: profile for profile in board.profiles}
    grown: set[frozenset[Place]] = {frozenset()}
    for profile_id in profile_ids:
        grown = {
            bigger
            for smaller in grown
            for start in profiles[profile_id].starts
            if len(bigger := smaller | {(profile_id, start)}) > len(smaller) and allowed(board, bigger)
        }
    return grown


def best(board: Board, gpu: Gpu, wants: tuple[Want, ...], busy: frozenset[int]) -> tuple[int, int] | None:
    """The least possible (destroyed GPU instances, steps without mode changes), ``None`` when it can't be done."""
    results = []
    for final in arrangements(board, [want.profile_id for want in wants]):
        staying = [one for one in gpu.gpu_instances if (one.profile_id, one.placement.start) in final]
        if not busy <= {one.id for one in staying}:
            continue
        for split_of in _splits(final, wants):
            steps = _count(gpu, staying, split_of, busy)
            if steps is not None:
                results.append((len(gpu.gpu_instances) - len(staying), steps))
    return min(results, default=None)


def _splits(final: frozenset[Place], wants: tuple[Want, ...]) -> Iterator[dict[Place, tuple[int, ...]]]:
    """Every way to hand the wanted splits to the places of their profile."""
    places = sorted(final)
    seen = set()
    for order in permutations(wants) if len({want.split for want in wants}) > 1 else [tuple(sorted(wants))]:
        if [want.profile_id for want in order] == [place[0] for place in places] and order not in seen:
            seen.add(order)
            yield {place: want.split for place, want in zip(places, order, strict=True)}


def _count(
    gpu: Gpu, staying: list[GpuInstance], split_of: dict[Place, tuple[int, ...]], busy: frozenset[int]
) -> int | None:
    steps = 0
    for one in gpu.gpu_instances:
        cis = len(one.compute_instances)
        if one not in staying:
            steps += cis + 1
            continue
        wanted = split_of[one.profile_id, one.placement.start]
        if sorted(CI_SLICES[ci.profile_id] for ci in one.compute_instances) != sorted(wanted):
            if cis and one.id in busy:
                return None
            steps += cis + len(wanted)
    kept = {(one.profile_id, one.placement.start) for one in staying}
    return steps + sum(1 + len(split) for place, split in split_of.items() if place not in kept)


def most_that_fit(board: Board, wants: tuple[Want, ...]) -> int:
    """How many of the wanted instances fit at most."""
    fitting: set[tuple[int, ...]] = {()}
    largest = 0
    while fitting:
        largest = len(next(iter(fitting)))
        counts = Counter(want.profile_id for want in wants)
        fitting = {
            tuple(sorted((*chosen, profile_id)))
            for chosen in fitting
            for profile_id, count in counts.items()
            if chosen.count(profile_id) < count and arrangements(board, (*chosen, profile_id))
        }
    return largest


class StrictGpu:
    """Carries out steps as the most pedantic driver would, and breaks the test where one is out of order."""

    def __init__(self, board: Board, gpu: Gpu, busy: frozenset[int] = frozenset()) -> None:
        self.board, self.busy = board, busy
        self.mode, self.pending = bool(gpu.mig.current), bool(gpu.mig.pending)
        self.instances = {one.id: (one.profile_id, one.placement.start) for one in gpu.gpu_instances}
        self.cis = {
            (one.id, ci.id): CI_SLICES.get(ci.profile_id) for one in gpu.gpu_instances for ci in one.compute_instances
        }

    def run(self, steps: Iterable[Step]) -> StrictGpu:
        for step in steps:
            self._step(step)
        return self

    def _step(self, step: Step) -> None:
        if isinstance(step, SetMode):
            assert not self.instances, "mode change with instances left"
            self.pending = step.enabled
            if self.board.mode_semantics == "hopper":
                self.mode = step.enabled
        elif isinstance(step, ResetGpu):
            assert self.board.mode_semantics == "ampere", "needless reset"
            assert self.pending == step.enabled != self.mode
            self.mode = self.pending
        elif isinstance(step, DestroyComputeInstance):
            assert step.gi_id not in self.busy
            del self.cis[step.gi_id, step.ci_id]
        elif isinstance(step, DestroyGpuInstance):
            assert step.gi_id not in self.busy
            assert not any(gi_id == step.gi_id for gi_id, _ in self.cis), "GPU instance still has compute instances"
            assert self.instances.pop(step.gi_id) == (step.profile_id, step.placement.start)
        elif isinstance(step, CreateGpuInstance):
            assert self.mode
            assert self.pending
            self.instances[max([99, *self.instances]) + 1] = (step.profile_id, step.placement.start)
            assert allowed(self.board, self.instances.values()), "does not fit"
        else:
            self._create_ci(step)

    def _create_ci(self, step: CreateComputeInstance) -> None:
        at = [key for key, (_, start) in self.instances.items() if start == step.placement.start]
        assert len(at) == 1
        assert step.gi_id is None or step.gi_id == at[0]
        used = [slices or 0 for (gi_id, _), slices in self.cis.items() if gi_id == at[0]]
        profile = self.board.profile(self.instances[at[0]][0])
        assert profile is not None
        assert sum(used) + step.slices <= profile.compute_slices
        self.cis[at[0], 50 + len(used)] = step.slices

    def as_gpu(self, before: Gpu) -> Gpu:
        """*before* with what is there now."""
        instances = []
        for gi_id, (profile_id, start) in self.instances.items():
            profile = self.board.profile(profile_id)
            assert profile is not None
            split = [slices or 0 for (owner, _), slices in self.cis.items() if owner == gi_id]
            instances.append(instance(self.board, gi_id, profile.name, start, tuple(split)))
        return replace(before, mig=MigState(True, self.mode, self.pending), gpu_instances=tuple(instances))

    def demand(self) -> Demand:
        """What the GPU is cut into now."""
        wants = []
        for gi_id, (profile_id, _) in self.instances.items():
            split = sorted((slices or 0 for (owner, _), slices in self.cis.items() if owner == gi_id), reverse=True)
            wants.append(Want(profile_id, tuple(split)))
        return Demand(self.mode, tuple(sorted(wants)))


def board_named(key: str) -> Board:
    """The board of this key, which must be there."""
    board = board_by_key(key)
    assert board is not None
    return board


def plain_gpu(
    board: Board, current: bool = True, pending: bool | None = None, instances: Iterable[GpuInstance] = ()
) -> Gpu:
    """A GPU of *board* with these instances."""
    mig = MigState(True, current, current if pending is None else pending)
    return Gpu(
        "0000:17:00.0",
        "10de",
        board.pci_device_ids[0],
        board=board.key,
        index=0,
        mig=mig,
        gpu_instances=tuple(instances),
    )


def instance(board: Board, gi_id: int, name: str, start: int, split: tuple[int, ...] | None = None) -> GpuInstance:
    """A GPU instance with one full compute instance, or with those of *split*."""
    profile = board.profile_named(name)
    assert profile is not None
    sizes = (profile.compute_slices,) if split is None else split
    cis = tuple(ComputeInstance(number, CI_PROFILE[size]) for number, size in enumerate(sizes))
    place = Placement(start, profile.memory_slots)
    return GpuInstance(gi_id, profile.id, profile.name, place, compute_instances=cis)


def wants(board: Board, *names: str) -> tuple[Want, ...]:
    """Plain wants by profile name."""
    found = []
    for name in names:
        profile = board.profile_named(name)
        assert profile is not None
        found.append(Want(profile.id, (profile.compute_slices,)))
    return tuple(sorted(found))


def random_places(board: Board, rng: random.Random) -> list[Place]:
    """Instances as a driver could have made and unmade them: anything that is allowed, gaps included."""
    placed: list[Place] = []
    for _ in range(rng.randrange(10)):
        profile = rng.choice(board.profiles)
        place = (profile.id, rng.choice(profile.starts))
        if place not in placed and allowed(board, [*placed, place]):
            placed.append(place)
    return placed


def random_state(board: Board, rng: random.Random) -> Gpu:
    """A GPU with MIG on; most instances have one full compute instance, some none or smaller ones."""
    instances = []
    ids = rng.sample(range(15), 15)
    for profile_id, start in random_places(board, rng):
        profile = board.profile(profile_id)
        assert profile is not None
        full = profile.compute_slices
        split = rng.choice([(full,)] * 6 + [(), (1,) * full, (1,)])
        instances.append(instance(board, ids.pop(), profile.name, start, split))
    rng.shuffle(instances)
    return plain_gpu(board, instances=instances)


def random_wants(board: Board, gpu: Gpu, rng: random.Random) -> tuple[Want, ...]:
    """What somebody may want of it: another possible state, the present one with changes, or anything at all."""
    kind = rng.randrange(4)
    if kind < 2:
        ids = [profile_id for profile_id, _ in random_places(board, rng)]
    elif kind == 2:
        ids = [one.profile_id for one in gpu.gpu_instances if rng.random() < 0.8]
        ids += [rng.choice(board.profiles).id for _ in range(rng.randrange(3))]
    else:
        ids = [rng.choice(board.profiles).id for _ in range(rng.randrange(1, 6))]
    chosen = []
    for profile_id in ids:
        profile = board.profile(profile_id)
        assert profile is not None
        full = profile.compute_slices
        chosen.append(Want(profile_id, (1,) * full if full == 2 and rng.random() < 0.1 else (full,)))
    return tuple(sorted(chosen))
