# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine specification: which GPUs, and how they are cut at first.

``[COUNTx]BOARD[=SLICE[@START][*N][:SLICE...]]``, comma-separated, or ``none``. ``=`` turns MIG on, alone without an
instance. Slices are created in the given order, each with one compute instance that fills it; the driver chooses the
place unless ``@START`` gives it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .boards import Board, Profile, boards

_PART = re.compile(r"(?:(?P<count>\d+)x)?(?P<board>[a-z0-9][a-z0-9-]*?)(?:=(?P<slices>.*))?", re.DOTALL)
_SLICE = re.compile(r"(?P<profile>[^@*]+)(?:@(?P<start>\d+))?(?:\*(?P<count>\d+))?")
#: Capability minors are laid out for 32 GPUs.
MAX_GPUS = 32


@dataclass(frozen=True)
class Slice:
    """One GPU instance to create; *start* is ``None`` when the driver chooses."""

    profile: Profile
    start: int | None = None


@dataclass(frozen=True)
class GpuSpec:
    """One GPU; *slices* is ``None`` with MIG off, empty with MIG on and no instance."""

    board: Board
    slices: tuple[Slice, ...] | None = None


class SpecError(ValueError):
    """The specification can't be understood or can't exist; the message names the part and what would be valid."""


def parse(text: str) -> list[GpuSpec]:
    """The GPUs of a machine specification, in the order of their PCI addresses.

    :raises SpecError: unknown board or profile, MIG on a board without it, a bad count.
    """
    if text.strip() == "none":
        return []
    gpus: list[GpuSpec] = []
    for part in text.split(","):
        gpus += _part(part.strip(), text)
    if len(gpus) > MAX_GPUS:
        raise SpecError(f"expected at most {MAX_GPUS} GPUs, found {len(gpus)} in {text!r}: ask for fewer")
    return gpus


def _part(part: str, text: str) -> list[GpuSpec]:
    match = _PART.fullmatch(part)
    if match is None:
        raise SpecError(
            f"expected [COUNTx]BOARD[=SLICE[*N]:...] or none, found {part!r} in {text!r}: boards are {_keys()}"
        )
    board = boards().get(match["board"])
    if board is None:
        raise SpecError(f"unknown board {match['board']!r} in {part!r}: boards are {_keys()}")
    count = int(match["count"] or 1)
    if count < 1:
        raise SpecError(f"expected a count of at least 1, found {part!r}: leave the board out, or say none")
    slices = match["slices"]
    return [GpuSpec(board, None if slices is None else _slices(board, slices, part))] * count


def _slices(board: Board, text: str, part: str) -> tuple[Slice, ...]:
    if board.mig is None:
        raise SpecError(f"board {board.key!r} has no MIG, found {part!r}: leave out the '=' and what follows")
    found: list[Slice] = []
    for entry in text.split(":") if text else []:
        match = _SLICE.fullmatch(entry)
        profile = board.mig.by_name(match["profile"]) if match else None
        if match is None or profile is None:
            names = ", ".join(sorted(known.name for known in board.mig.profiles))
            raise SpecError(f"unknown slice {entry!r} in {part!r}: profiles of {board.key} are {names}")
        start = None if match["start"] is None else int(match["start"])
        if start is not None and start not in profile.starts:
            raise SpecError(f"{profile.name} can't start at {start} in {part!r}: it can at {list(profile.starts)}")
        found += [Slice(profile, start)] * int(match["count"] or 1)
    return tuple(found)


def _keys() -> str:
    return ", ".join(boards())
