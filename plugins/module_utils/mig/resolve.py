# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From profile names and intents to what a certain board calls so: the step from a layout to a demand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

from .catalog import Board, Profile
from .demand import MIG_OFF, Demand, Want
from .explain import Infeasible, nearest_to
from .grid import grid_of
from .layout_names import ProfileName

#: Compute instance sizes by the compute slices of their GPU instance (``nvidia-smi mig -lcip``).
CI_SIZES = {1: (1,), 2: (1, 2), 3: (1, 2, 3), 4: (1, 2, 4), 7: (1, 2, 3, 4, 7)}


@lru_cache(maxsize=4096)
def demand_on(board: Board, mig_enabled: bool, mig_devices: tuple[tuple[ProfileName, int], ...]) -> Demand | Infeasible:
    """The demand that an entry with these values makes of a GPU of *board*.

    :returns: :class:`Infeasible` with code ``profile_unknown`` when the board has no such profile.
    """
    if not mig_enabled:
        return MIG_OFF
    asked: Counter[tuple[Profile, int]] = Counter()
    unknown: list[tuple[ProfileName, int]] = []
    for name, count in mig_devices:
        profile = _profile(board, name)
        size = None if profile is None else _ci_size(profile, name)
        if profile is None or size is None:
            unknown.append((name, count))
        else:
            asked[profile, size] += count
    if unknown:
        return _unknown(board, asked, unknown)
    return Demand(True, _wants(asked))


def _profile(board: Board, name: ProfileName) -> Profile | None:
    if name.memory_gb is not None:
        return board.profile_named(f"{name.compute}g.{name.memory_gb}gb{name.attributes}")
    slices = _slices(board, name.compute)
    fitting = [
        profile
        for profile in board.profiles
        if profile.compute_slices == slices and attributes(profile) == name.attributes
    ]
    return min(fitting, key=lambda profile: (profile.memory_slots, profile.id), default=None)


def _slices(board: Board, size: int | str) -> int:
    """Compute slices of an intent. Half is the most of which two fit: 3 of 7 slices, 2 of 4."""
    if size == "whole":
        return board.compute_slices
    if isinstance(size, int):
        return size
    halves = (
        profile.compute_slices
        for profile in board.profiles
        if 2 * profile.compute_slices <= board.compute_slices and 2 * profile.memory_slots <= board.memory_slots
    )
    return max(halves, default=0)


def attributes(profile: Profile) -> str:
    """What a profile's name has after its memory: ``+me``, or nothing."""
    return profile.name.partition("gb")[2]


def _ci_size(profile: Profile, name: ProfileName) -> int | None:
    if name.ci_slices is None:
        return profile.compute_slices
    return name.ci_slices if name.ci_slices in CI_SIZES.get(profile.compute_slices, ()) else None


def _wants(asked: Counter[tuple[Profile, int]]) -> tuple[Want, ...]:
    """Compute instances smaller than their GPU instance share one as long as there is room: largest first, first fit.

    So ``1c.3g.40gb: 3`` is one GPU instance and ``: 4`` are two, as mig-parted fills them.
    """
    splits: dict[int, list[list[int]]] = {}
    for (profile, size), count in sorted(asked.items(), key=lambda item: (item[0][0].id, -item[0][1])):
        open_ones = splits.setdefault(profile.id, [])
        for _ in range(count):
            room = next((split for split in open_ones if sum(split) + size <= profile.compute_slices), None)
            if room is None:
                open_ones.append([size])
            else:
                room.append(size)
    return tuple(sorted(Want(profile_id, tuple(split)) for profile_id, all_of in splits.items() for split in all_of))


def _unknown(board: Board, asked: Counter[tuple[Profile, int]], unknown: list[tuple[ProfileName, int]]) -> Infeasible:
    taken = Counter(asked)
    changed, lost = [], []
    for name, count in unknown:
        other = _closest(board, name)
        if other is None:
            lost.append((name.text, count))
        else:
            taken[other, other.compute_slices] += count
            changed.append((name.text, other.name))
    nearest = nearest_to(grid_of(board), (), _wants(taken))
    if nearest is not None:
        made = dict(nearest.mig_devices)
        # What was taken for an unknown name and then dropped goes under the name that was written.
        written = {new: old for old, new in changed if new not in made}
        dropped = ((written.get(name, name), count) for name, count in nearest.dropped)
        swaps = tuple((old, new) for old, new in changed if new in made)
        nearest = replace(nearest, changed=swaps, dropped=(*dropped, *lost))
    names = ", ".join(name.text for name, _ in unknown)
    known = ", ".join(profile.name for profile in board.profiles)
    return Infeasible(
        "profile_unknown", f"expected profiles of {board.model} ({known}) or intents, found {names}", nearest
    )


def _closest(board: Board, name: ProfileName) -> Profile | None:
    """The profile that was probably meant: as many compute slices, the same attributes if possible, similar memory."""
    if isinstance(name.compute, str):
        return None
    close = [profile for profile in board.profiles if profile.compute_slices == name.compute]
    return min(
        close,
        key=lambda profile: (
            attributes(profile) != name.attributes,
            0 if name.memory_gb is None else abs(_memory_gb(profile) - name.memory_gb),
            profile.memory_slots,
            profile.id,
        ),
        default=None,
    )


def _memory_gb(profile: Profile) -> int:
    return int(profile.name.partition("gb")[0].partition(".")[2])
