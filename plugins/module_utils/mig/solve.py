# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exact search at the heart of the planner: which instances of a GPU stay, and where the missing ones go.

In this order: no busy instance is destroyed or loses a compute instance (where that is allowed: as few as possible of
the next rule's answers); as few GPU instances as possible are destroyed; as few steps as possible; the most room left
(:meth:`Grid.place`); the lowest kept slots. The last makes the answer unique, so that the same question always has the
same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from .demand import Want
from .grid import Grid, Score, bits


@dataclass(frozen=True)
class Held:
    """A GPU instance that exists. *cis* pairs each compute instance's id with its compute slices, ``None`` if unknown.

    *busy*: a process uses it or one of its compute instances.
    """

    gi_id: int
    profile_id: int
    profile: str
    start: int
    size: int
    cis: tuple[tuple[int, int | None], ...] = ()
    busy: bool = False

    @property
    def split(self) -> tuple[int, ...] | None:
        """Compute slices of its compute instances, largest first; ``None`` when one of them is unknown."""
        slices = [size for _, size in self.cis if size is not None]
        return tuple(sorted(slices, reverse=True)) if len(slices) == len(self.cis) else None


@dataclass(frozen=True)
class Solution:
    """*kept*: positions in the held instances, each with the want it serves. *created*: wants with their start."""

    kept: tuple[tuple[int, Want], ...]
    created: tuple[tuple[Want, int], ...]


@lru_cache(maxsize=16384)
def solve(grid: Grid, held: tuple[Held, ...], wants: tuple[Want, ...], allow_busy: bool) -> Solution | None:
    """The best way from *held* to exactly *wants*; ``None`` when there is none (with the busy instances untouched).

    *wants* must keep all constraints but placement (:meth:`Grid.excess`), and be sorted. *held* must not overlap.
    """
    must = frozenset() if allow_busy else frozenset(number for number, one in enumerate(held) if one.busy)
    counts = Counter(want.profile_id for want in wants)
    useful = [number for number, one in enumerate(held) if one.profile_id in counts]
    if not must <= set(useful):
        return None
    for size in range(min(len(useful), len(wants)), len(must) - 1, -1):
        answers = _answers(grid, held, wants, counts, _choices(useful, size, must), allow_busy)
        best = max(answers, key=lambda answer: answer[0], default=None)
        if best is not None:
            return best[1]
    return None


def _choices(useful: Sequence[int], size: int, must: frozenset[int]) -> Iterator[tuple[int, ...]]:
    return (choice for choice in combinations(useful, size) if must.issubset(choice))


def _answers(
    grid: Grid,
    held: tuple[Held, ...],
    wants: tuple[Want, ...],
    counts: Counter[int],
    choices: Iterator[tuple[int, ...]],
    allow_busy: bool,
) -> Iterator[tuple[tuple[int, int, Score, tuple[int, ...]], Solution]]:
    """The solutions among *choices* of kept instances, each with its rank (greatest is best); all keep equally many."""
    for choice in choices:
        missing = counts - Counter(held[number].profile_id for number in choice)
        if missing.total() != len(wants) - len(choice):
            continue
        kept = _assigned(held, wants, choice, allow_busy)
        if kept is None:
            continue
        taken = 0
        for number in choice:
            taken |= bits(held[number].start, held[number].size)
        filling = grid.place(taken, tuple(sorted(missing.elements())))
        if filling is None:
            continue
        solution = Solution(kept, _created(wants, kept, filling.placed))
        rank = (
            -_disturbed(held, solution),
            -_steps(held, solution),
            filling.score,
            tuple(-number for number in choice),
        )
        yield rank, solution


def _assigned(
    held: tuple[Held, ...], wants: tuple[Want, ...], choice: tuple[int, ...], allow_busy: bool
) -> tuple[tuple[int, Want], ...] | None:
    """Which want each kept instance serves, so that the fewest compute instances change.

    Matching equal splits first is optimal: the cost of a pair that does not match is the sum of what each of both costs
    alone. Busy instances choose first, since they can't be changed; ``None`` when one of them would have to.
    """
    open_wants = Counter(wants)
    served: dict[int, Want] = {}
    for number in sorted(choice, key=lambda number: (not held[number].busy, number)):
        split = held[number].split
        exact = None if split is None else Want(held[number].profile_id, split)
        if exact is not None and open_wants[exact] > 0:
            open_wants[exact] -= 1
            served[number] = exact
    for number in choice:
        if number in served:
            continue
        if held[number].busy and held[number].cis and not allow_busy:
            return None
        want = min(want for want in open_wants if open_wants[want] > 0 and want.profile_id == held[number].profile_id)
        open_wants[want] -= 1
        served[number] = want
    return tuple((number, served[number]) for number in choice)


def _created(
    wants: tuple[Want, ...], kept: tuple[tuple[int, Want], ...], placed: tuple[tuple[int, int], ...]
) -> tuple[tuple[Want, int], ...]:
    """Gives the placements to the wants no kept instance serves; among equal profiles in the order of their splits."""
    missing = Counter(wants) - Counter(want for _, want in kept)
    queue = sorted(missing.elements())
    created = []
    for profile_id, start in placed:
        want = next(want for want in queue if want.profile_id == profile_id)
        queue.remove(want)
        created.append((want, start))
    return tuple(created)


def _disturbed(held: tuple[Held, ...], solution: Solution) -> int:
    """How many busy instances lose something. More than none only where the caller allowed it."""
    kept = dict(solution.kept)
    return sum(
        one.busy and (number not in kept or (bool(one.cis) and one.split != kept[number].split))
        for number, one in enumerate(held)
    )


def _steps(held: tuple[Held, ...], solution: Solution) -> int:
    kept = dict(solution.kept)
    total = sum(1 + len(want.split) for want, _ in solution.created)
    for number, one in enumerate(held):
        if number not in kept:
            total += 1 + len(one.cis)
        elif one.split != kept[number].split:
            total += len(one.cis) + len(kept[number].split)
    return total
