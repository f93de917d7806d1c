# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a demand can't be met on a GPU, and which demand nearest to it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .demand import Want
from .grid import Excess, Grid, bits
from .solve import Held


@dataclass(frozen=True)
class Nearest:
    """The feasible layout that is nearest to the one asked for.

    Nearest: every busy instance stays; then the fewest instances dropped; then the largest ones kept (compute slices
    before memory). *mig_devices* is in the layout language, *dropped* and *added* count instances by profile name
    (added are busy ones that the layout did not ask for), *changed* maps a name that the board does not have to the one
    taken for it.
    """

    mig_devices: tuple[tuple[str, int], ...]
    dropped: tuple[tuple[str, int], ...] = ()
    added: tuple[tuple[str, int], ...] = ()
    changed: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        """What a person would write, and how it differs from what was asked for."""
        parts = [f"the nearest layout that fits is {listed(self.mig_devices) or 'MIG on without instances'}"]
        if self.changed:
            parts.append("with " + ", ".join(f"{new} in place of {old}" for old, new in self.changed))
        if self.added:
            parts.append(f"with the busy {listed(self.added)}")
        if self.dropped:
            parts.append(f"without {listed(self.dropped)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Infeasible:
    """A demand that can't be met on a GPU.

    *code* names the binding constraint for programs: ``not_mig_capable``, ``board_unknown``, ``state_unknown``,
    ``profile_unknown``, ``driver_too_old``, ``compute_slices``, ``memory_slots``, ``media_extensions``, ``engines``,
    ``profile_count``, ``placement`` or ``busy``. *message* says what was expected, what was found and what to do.
    """

    code: str
    message: str
    nearest: Nearest | None = None

    def describe(self) -> str:
        """The message, and the nearest layout where there is one."""
        return self.message if self.nearest is None else f"{self.message}; {self.nearest.describe()}"


def listed(counts: Iterable[tuple[str, int]]) -> str:
    """``2 x 1g.10gb, 1 x 3g.40gb``"""
    return ", ".join(f"{count} x {name}" for name, count in counts)


def want_name(grid: Grid, want: Want) -> tuple[str, int]:
    """How the layout language spells *want*: the key of ``mig-devices`` and how many of it."""
    profile = grid.profile(want.profile_id)
    if want.split == (profile.compute_slices,):
        return profile.name, 1
    # Only equal compute instances have a spelling of one key; a mixed split is shown, not to be pasted.
    if len(set(want.split)) == 1:
        return f"{want.split[0]}c.{profile.name}", len(want.split)
    return f"{'+'.join(f'{size}c' for size in want.split) or '0c'}.{profile.name}", 1


def counted(grid: Grid, wants: Iterable[Want]) -> tuple[tuple[str, int], ...]:
    """*wants* in the layout language, largest profile first."""
    counts: Counter[str] = Counter()
    for want in sorted(wants, key=lambda want: (_worth(grid, want), want), reverse=True):
        name, count = want_name(grid, want)
        counts[name] += count
    return tuple(counts.items())


def why(grid: Grid, held: tuple[Held, ...], wants: tuple[Want, ...]) -> Infeasible:
    """The binding constraint of a demand that can't be met, and the nearest one that can."""
    asked = listed(counted(grid, wants))
    model = grid.board.model
    nearest = nearest_to(grid, held, wants)
    excess = grid.excess(want.profile_id for want in wants)
    if excess is not None:
        return Infeasible(excess.constraint, _excess_message(model, asked, excess), nearest)
    if grid.place(0, tuple(sorted(want.profile_id for want in wants))) is None:
        message = (
            f"{asked} does not fit on {model}: compute slices and memory slots suffice, but every arrangement on the "
            f"legal starts ({_starts(grid, wants)}) overlaps"
        )
        return Infeasible("placement", message, nearest)
    return Infeasible("busy", _busy_message(held, wants, asked, model), nearest)


def _excess_message(model: str, asked: str, excess: Excess) -> str:
    return f"{asked} does not fit on {model}: it needs {excess.wanted} {excess.what}, the board has {excess.limit}"


def _starts(grid: Grid, wants: Iterable[Want]) -> str:
    profiles = sorted({want.profile_id for want in wants})
    named = (grid.profile(profile_id) for profile_id in profiles)
    return ", ".join(f"{profile.name}: {'/'.join(map(str, profile.starts))}" for profile in named)


def _busy_message(held: tuple[Held, ...], wants: tuple[Want, ...], asked: str, model: str) -> str:
    counts = Counter(want.profile_id for want in wants)
    busy = [one for one in held if one.busy]
    unwanted = []
    for one in busy:
        counts[one.profile_id] -= 1
        if counts[one.profile_id] < 0:
            unwanted.append(one)
    advice = "wait until their processes have ended, or allow busy instances to be destroyed"
    names = ", ".join(f"{one.profile} at slot {one.start} (GPU instance {one.gi_id})" for one in unwanted or busy)
    if unwanted:
        return f"{asked} can't be made on this {model}: the layout has no place for the busy {names}; {advice}"
    return f"{asked} can't be made on this {model} around the busy {names}: {advice}"


@lru_cache(maxsize=4096)
def nearest_to(grid: Grid, held: tuple[Held, ...], wants: tuple[Want, ...]) -> Nearest | None:
    """The nearest feasible layout, see :class:`Nearest`. *held* counts only as far as it is busy.

    ``None`` when a busy instance has a profile or compute instances that no layout can ask for.
    """
    fixed: list[Want] = []
    taken = 0
    for one in held:
        if not one.busy:
            continue
        if one.split is None or all(profile.id != one.profile_id for profile in grid.board.profiles):
            return None
        fixed.append(Want(one.profile_id, one.split))
        taken |= bits(one.start, one.size)
    left = Counter(wants) - Counter(fixed)
    kinds = sorted(left, key=lambda want: (_worth(grid, want), want), reverse=True)
    choices = _choices(grid, tuple(want.profile_id for want in fixed), taken, (), kinds, left)
    best = max(choices, key=lambda chosen: (len(chosen), sorted(map(_worths(grid), chosen), reverse=True), chosen))
    return Nearest(
        mig_devices=counted(grid, (*fixed, *best)),
        dropped=counted(grid, (left - Counter(best)).elements()),
        added=counted(grid, (Counter(fixed) - Counter(wants)).elements()),
    )


def _choices(
    grid: Grid, busy: tuple[int, ...], taken: int, chosen: tuple[Want, ...], kinds: Sequence[Want], left: Counter[Want]
) -> Iterator[tuple[Want, ...]]:
    """All feasible choices of the wanted instances beside the *busy* ones, that of none included.

    Every constraint is monotone, so a choice that breaks one is not looked into further: the number of feasible choices
    is small (a few hundred) however much was asked for.
    """
    yield chosen
    for position, want in enumerate(kinds):
        if left[want] <= 0:
            continue
        more = (*chosen, want)
        ids = tuple(sorted(one.profile_id for one in more))
        if grid.excess((*busy, *ids)) is None and grid.place(taken, ids) is not None:
            fewer = Counter(left)
            fewer[want] -= 1
            yield from _choices(grid, busy, taken, more, kinds[position:], fewer)


def _worths(grid: Grid) -> Callable[[Want], tuple[int, int]]:
    return lambda want: _worth(grid, want)


def _worth(grid: Grid, want: Want) -> tuple[int, int]:
    profile = grid.profile(want.profile_id)
    return profile.compute_slices, profile.memory_slots
