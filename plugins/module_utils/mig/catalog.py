# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookups in the table of MIG capable boards: to plan without hardware, to name what a driver leaves unnamed.

This file and its data import nothing of the project, so that every layer may use them. A live driver wins over the
table; the data file says where each figure comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from .boards import BOARDS, GRIDS


class ModeSemantics(StrEnum):
    """How switching MIG on or off takes effect.

    ``ampere``: after a GPU reset (or a reboot where the GPU is passed through to a virtual machine); the mode survives
    a reboot. ``hopper``: at once; the mode is lost with every reboot and driver unload. Instances are lost on both.
    """

    AMPERE = "ampere"
    HOPPER = "hopper"


@dataclass(frozen=True)
class Engines:
    """Media engines: of a profile, or what a board has of them to give away."""

    nvdec: int
    nvenc: int
    jpeg: int
    ofa: int


@dataclass(frozen=True)
class Profile:
    """One way to cut a GPU instance.

    *id* is what ``nvidia-smi mig -cgi`` takes, stable over driver versions. *memory_slots* and *starts* are in slots of
    the board's grid; *max_count* is how many fit when nothing else is there. *sm_count* and *memory_mib* are ``None``
    where nobody published them. *engines* is ``None`` on boards where engines never limit a mix.
    """

    id: int
    name: str
    compute_slices: int
    memory_slots: int
    starts: tuple[int, ...]
    max_count: int
    sm_count: int | None
    memory_mib: int | None
    engines: Engines | None

    @property
    def has_media_extensions(self) -> bool:
        """Whether it is a ``+me`` profile; at most one instance of all of these fits on a GPU."""
        return "+me" in self.name


@dataclass(frozen=True)
class Board:
    """A class of boards that are cut alike.

    *key* is what :attr:`Gpu.board` carries. *min_driver* is the first driver that can do MIG there, ``None`` when not
    documented. *placements_observed* is False where the slot positions are inferred from sister boards.
    """

    key: str
    model: str
    pci_device_ids: tuple[str, ...]
    memory_slots: int
    compute_slices: int
    mode_semantics: ModeSemantics
    min_driver: str | None
    placements_observed: bool
    engine_budget: Engines | None
    profiles: tuple[Profile, ...]

    def profile(self, profile_id: int) -> Profile | None:
        """The profile with this id, ``None`` when the board has none."""
        return next((profile for profile in self.profiles if profile.id == profile_id), None)

    def profile_named(self, name: str) -> Profile | None:
        """The profile of this exact name (``1g.10gb+me``), ``None`` when the board has none."""
        return next((profile for profile in self.profiles if profile.name == name), None)


@cache
def boards() -> tuple[Board, ...]:
    """All board classes, in the order of the data."""
    return tuple(_board(key) for key in BOARDS)


def board_by_key(key: str) -> Board | None:
    """The board class with this key, ``None`` when there is none."""
    return next((board for board in boards() if board.key == key), None)


def board_for(pci_device_id: str) -> Board | None:
    """The board class of a PCI device id (four hex digits, any case, as in ``2330``), ``None`` when it is not listed.

    Where one device id differs from its class (an Ampere board among Hopper ones) the returned board says so in
    *model*, *mode_semantics* and *min_driver*; its key is that of the class.
    """
    wanted = pci_device_id.lower()
    for board in boards():
        if wanted in board.pci_device_ids:
            variation = BOARDS[board.key]["variations"].get(wanted)
            if variation is None:
                return board
            return replace(
                board,
                model=variation.get("model", board.model),
                mode_semantics=ModeSemantics(variation.get("mode_semantics", board.mode_semantics)),
                min_driver=variation.get("min_driver", board.min_driver),
            )
    return None


def _board(key: str) -> Board:
    data = BOARDS[key]
    grid = GRIDS[data["grid"]]
    budget = grid["engine_budget"]
    profiles = []
    for profile_id, label in data["profiles"].items():
        shape = grid["shapes"][profile_id]
        engines = grid["engines"].get(profile_id)
        profiles.append(
            Profile(
                id=profile_id,
                name=label.name,
                compute_slices=shape.compute,
                memory_slots=shape.size,
                starts=shape.starts,
                max_count=shape.most,
                sm_count=label.sm,
                memory_mib=None if label.gib is None else round(label.gib * 1024),
                engines=None if engines is None else Engines(*engines),
            )
        )
    return Board(
        key=key,
        model=data["model"],
        pci_device_ids=data["pci_device_ids"],
        memory_slots=grid["memory_slots"],
        compute_slices=grid["compute_slices"],
        mode_semantics=ModeSemantics(data["mode_semantics"]),
        min_driver=data["min_driver"],
        placements_observed=data["placements_observed"],
        engine_budget=None if budget is None else Engines(*budget),
        profiles=tuple(profiles),
    )
