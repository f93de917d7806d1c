# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instances fit on a board together and where: exact arithmetic on memory slots, compute slices and engines.

A set of instances fits when it keeps all of these (NVIDIA MIG User Guide; the figures are the catalogue's):

* compute slices: no more in sum than the board has;
* memory slots: each instance sits on one of its profile's legal starts, and no two share a slot;
* count: no more of a profile than the driver allows;
* media extensions: one ``+me`` instance at most;
* engines (RTX PRO only): the sum of decoders, encoders, JPEG and OFA engines stays in the board's budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache

from .catalog import Board, Profile

#: Room left and starts: the greater, the better. See :meth:`Grid.place`.
Score = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Excess:
    """A constraint that a set of instances breaks: *limit* of *what* there is, *wanted* of it asked for."""

    constraint: str
    what: str
    limit: int
    wanted: int


@dataclass(frozen=True)
class Filling:
    """Placements of a set of instances: pairs of profile id and start, in the order largest profile first."""

    placed: tuple[tuple[int, int], ...]
    score: Score


class Grid:
    """One board, prepared for the search. Made by :func:`grid_of`, so that its memory of what fits is shared."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._profiles = {profile.id: profile for profile in board.profiles}
        self._by_size = sorted(board.profiles, key=_largest_first)
        self._known: dict[tuple[int, tuple[int, ...]], Filling | None] = {}

    def profile(self, profile_id: int) -> Profile:
        """The profile of this id. :raises KeyError: the board has none."""
        return self._profiles[profile_id]

    def excess(self, profile_ids: Iterable[int]) -> Excess | None:
        """The first constraint other than placement that these instances break together, ``None`` when they keep all.

        All of them are monotone: what breaks one still does with more instances added.
        """
        counts = Counter(profile_ids)
        wanted = [(self._profiles[profile_id], count) for profile_id, count in sorted(counts.items())]
        compute = sum(profile.compute_slices * count for profile, count in wanted)
        if compute > self.board.compute_slices:
            return Excess("compute_slices", "compute slices", self.board.compute_slices, compute)
        memory = sum(profile.memory_slots * count for profile, count in wanted)
        if memory > self.board.memory_slots:
            return Excess("memory_slots", "memory slots", self.board.memory_slots, memory)
        media = sum(count for profile, count in wanted if profile.has_media_extensions)
        if media > 1:
            return Excess("media_extensions", "sets of media extensions (+me)", 1, media)
        return self._engine_excess(wanted) or self._count_excess(wanted)

    def _engine_excess(self, wanted: list[tuple[Profile, int]]) -> Excess | None:
        if self.board.engine_budget is None:
            return None
        names = ("NVDEC engines", "NVENC engines", "JPEG engines", "OFA engines")
        for position, limit in enumerate(astuple(self.board.engine_budget)):
            need = sum(astuple(profile.engines)[position] * count for profile, count in wanted if profile.engines)
            if need > limit:
                return Excess("engines", names[position], limit, need)
        return None

    def _count_excess(self, wanted: list[tuple[Profile, int]]) -> Excess | None:
        for profile, count in wanted:
            if count > profile.max_count:
                return Excess("profile_count", f"instances of {profile.name}", profile.max_count, count)
        return None

    def place(self, taken: int, profile_ids: tuple[int, ...]) -> Filling | None:
        """The best placement of the instances of *profile_ids* around the slots of the bit mask *taken*.

        Best is what leaves the most legal starts for the largest profile, then for the next smaller one and so on; then
        what puts the smallest instances highest, since only low slots can take a ``4g``. ``None`` when nothing fits.
        Placement is all that is looked at: ask :meth:`excess` for the other constraints first.
        """
        key = (taken, profile_ids)
        if key not in self._known:
            wanted = sorted((self._profiles[profile_id] for profile_id in profile_ids), key=_largest_first)
            fillings = (self._filling(wanted, starts, mask) for starts, mask in _fillings(wanted, taken))
            self._known[key] = max(fillings, key=lambda filling: filling.score, default=None)
        return self._known[key]

    def _filling(self, wanted: list[Profile], starts: tuple[int, ...], taken: int) -> Filling:
        room = tuple(
            sum(not bits(start, shape.memory_slots) & taken for start in shape.starts) for shape in self._by_size
        )
        placed = tuple((profile.id, start) for profile, start in zip(wanted, starts, strict=True))
        return Filling(placed, (room, tuple(reversed(starts))))


@lru_cache(maxsize=256)
def grid_of(board: Board) -> Grid:
    """The prepared search for *board*; equal boards share one."""
    return Grid(board)


def bits(start: int, size: int) -> int:
    """The slots from *start* on as a bit mask."""
    return ((1 << size) - 1) << start


def _largest_first(profile: Profile) -> tuple[int, int, int]:
    return -profile.memory_slots, -profile.compute_slices, profile.id


def _fillings(
    wanted: list[Profile], taken: int, start_below: int | None = None
) -> Iterator[tuple[tuple[int, ...], int]]:
    """All ways to place *wanted*, as starts and the mask afterwards; equal profiles in falling order: each way once."""
    if not wanted:
        yield (), taken
        return
    first, rest = wanted[0], wanted[1:]
    same_next = bool(rest) and rest[0].id == first.id
    for start in first.starts:
        mask = bits(start, first.memory_slots)
        if mask & taken or (start_below is not None and start >= start_below):
            continue
        for starts, after in _fillings(rest, taken | mask, start if same_next else None):
            yield (start, *starts), after
