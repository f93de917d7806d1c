# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running driver's word on a board's profiles, laid over the catalogue: the driver wins, and says where it does.

Profile names change with the driver and board revision, ids do not (B200 and GB200 boards of early and later making,
GB300 between driver branches): so a profile is the same one when its id is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .catalog import Board, Engines, ModeSemantics, Profile


@dataclass(frozen=True)
class LiveProfile:
    """A GPU instance profile as NVML tells it. *name* is ``None`` where the driver has no call for it.

    *starts* and *memory_slots* are those of its possible placements; *max_count* is NVML's instance count.
    """

    id: int
    name: str | None
    compute_slices: int
    memory_slots: int
    starts: tuple[int, ...]
    max_count: int
    memory_mib: int | None = None
    sm_count: int | None = None
    engines: Engines | None = None


@dataclass(frozen=True)
class LiveBoard:
    """The board to plan with, and one sentence for each point in which driver and catalogue differ."""

    board: Board
    differences: tuple[str, ...] = ()


def overlay(board: Board | None, profiles: Sequence[LiveProfile], model: str, pci_device_id: str) -> LiveBoard | None:
    """*board* of the catalogue as corrected by *profiles*; a new board where the catalogue has none.

    Without any profile the catalogue stands: drivers up to R535 list none while MIG mode is off. ``None`` when neither
    tells anything. The mode semantics of an unknown board are taken to be Ampere's, the more cautious ones: a reset
    that turns out needless is seen on the machine and left out.
    """
    if not profiles:
        return None if board is None else LiveBoard(board)
    ordered = sorted(profiles, key=lambda profile: profile.id)
    if board is None:
        return LiveBoard(_unknown_board(ordered, model, pci_device_id), (f"the catalogue does not know {model}",))
    differences: list[str] = []
    merged = []
    for live in ordered:
        known = board.profile(live.id)
        if known is None:
            differences.append(f"the driver has profile {live.id} ({live.name or 'no name'}), the catalogue does not")
            merged.append(_new(live))
        else:
            merged.append(_corrected(known, live, differences))
    listed = {live.id for live in ordered}
    for profile in board.profiles:
        if profile.id not in listed:
            differences.append(f"the catalogue has profile {profile.id} ({profile.name}), the driver does not")
    slots = max(board.memory_slots, _slots(ordered))
    if slots != board.memory_slots:
        differences.append(f"the driver places up to slot {slots - 1}, the catalogue has {board.memory_slots} slots")
    return LiveBoard(replace(board, profiles=tuple(merged), memory_slots=slots), tuple(differences))


def _corrected(known: Profile, live: LiveProfile, differences: list[str]) -> Profile:
    name = live.name or known.name
    starts = tuple(sorted(live.starts))
    pairs = (
        ("name", known.name, name),
        ("compute slices", known.compute_slices, live.compute_slices),
        ("memory slots", known.memory_slots, live.memory_slots),
        ("starts", known.starts, starts),
    )
    for what, expected, found in pairs:
        if expected != found:
            differences.append(f"{what} of profile {live.id}: the catalogue has {expected}, the driver {found}")
    # NVML reports wrong instance counts for A30, so where the placements agree the catalogue's count is the better one.
    same_shape = (known.starts, known.memory_slots) == (starts, live.memory_slots)
    return replace(
        known,
        name=name,
        compute_slices=live.compute_slices,
        memory_slots=live.memory_slots,
        starts=starts,
        max_count=known.max_count if same_shape else live.max_count,
        memory_mib=live.memory_mib or known.memory_mib,
        sm_count=live.sm_count or known.sm_count,
    )


def _new(live: LiveProfile) -> Profile:
    return Profile(
        id=live.id,
        name=live.name or f"{live.compute_slices}g.profile{live.id}",
        compute_slices=live.compute_slices,
        memory_slots=live.memory_slots,
        starts=tuple(sorted(live.starts)),
        max_count=live.max_count,
        sm_count=live.sm_count,
        memory_mib=live.memory_mib,
        engines=live.engines,
    )


def _unknown_board(profiles: Sequence[LiveProfile], model: str, pci_device_id: str) -> Board:
    return Board(
        key="unknown",
        model=model,
        pci_device_ids=(pci_device_id,),
        memory_slots=_slots(profiles),
        compute_slices=max(profile.compute_slices for profile in profiles),
        mode_semantics=ModeSemantics.AMPERE,
        min_driver=None,
        placements_observed=True,
        engine_budget=None,
        profiles=tuple(_new(profile) for profile in profiles),
    )


def _slots(profiles: Sequence[LiveProfile]) -> int:
    return max((start + profile.memory_slots for profile in profiles for start in profile.starts), default=1)
