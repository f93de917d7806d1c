# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of a machine's GPUs for a terminal: every board a box, every MIG slice to scale on its memory slots."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from ..gpu.model import Gpu, GpuInstance, Inventory
from .catalog import board_by_key

#: Grid of a board the catalogue does not know: that of all data-center boards but A30 and RTX PRO.
_DEFAULT_SLOTS = 8
_TO_ASCII = str.maketrans({"┌": "+", "┐": "+", "└": "+", "┘": "+", "┬": "+", "┴": "+", "─": "-", "│": "|", "·": "."})


@dataclass(frozen=True)
class _Cell:
    """One box of a row: *slots* wide, with the words that go into it. Free space has no words."""

    slots: int
    words: tuple[str, ...]
    free: bool = False


def draw(
    inventory: Inventory, labels: Mapping[str, str] | None = None, width: int = 80, ascii_only: bool = False
) -> str:
    """Draw the GPUs of *inventory*, one below the other, ordered as in the inventory.

    :param labels: device UUID (of a GPU or of a MIG device) to a short text about it, such as ``job 7 alice``; a device
        without a label is shown as ``idle``.
    :param width: columns of the terminal; boxes shrink to it down to three columns a memory slot and never below, since
        a picture whose cells have lost their words is worth nothing.
    :param ascii_only: frames of ``+-|`` for consoles that cannot show box drawing characters.
    :returns: lines joined by newlines, without one at the end. A machine without GPU gives one sentence that says so.
    """
    if not inventory.gpus:
        text = "no NVIDIA GPU in this machine"
    else:
        text = "\n".join(_draw_gpu(gpu, labels or {}, width) for gpu in inventory.gpus)
    return text.translate(_TO_ASCII) if ascii_only else text


def _draw_gpu(gpu: Gpu, labels: Mapping[str, str], width: int) -> str:
    slots = _slots(gpu)
    column = max(3, (width - 1) // slots)
    cells = _cells(gpu, slots, labels)
    rows = [_wrapped(cell, cell.slots * column - 1) for cell in cells]
    height = max(len(row) for row in rows)
    lines = [_title(gpu), _rule("┌", "┬", "┐", cells, column)]
    for line in range(height):
        texts = [row[line] if line < len(row) else "" for row in rows]
        boxes = (_fill(cell, text, cell.slots * column - 1) for cell, text in zip(cells, texts, strict=True))
        lines.append("│" + "│".join(boxes) + "│")
    lines.append(_rule("└", "┴", "┘", cells, column))
    return "\n".join(lines)


def _slots(gpu: Gpu) -> int:
    board = board_by_key(gpu.board) if gpu.board is not None else None
    known = board.memory_slots if board is not None else _DEFAULT_SLOTS
    return max([known, *(gi.placement.start + gi.placement.size for gi in gpu.gpu_instances)])


def _title(gpu: Gpu) -> str:
    number = "GPU ?" if gpu.index is None else f"GPU {gpu.index}"
    parts = [number, gpu.pci_address, gpu.name or f"NVIDIA {gpu.device_id}"]
    if gpu.mig.current:
        count = sum(len(gi.compute_instances) for gi in gpu.gpu_instances)
        parts.append(f"MIG, {count} slice{'' if count == 1 else 's'}")
    elif gpu.memory_mib is not None:
        parts.append(f"whole, {gpu.memory_mib / 1024:.0f} GiB")
    return "  ".join(parts)


def _cells(gpu: Gpu, slots: int, labels: Mapping[str, str]) -> list[_Cell]:
    if not gpu.mig.current:
        if gpu.uuid is None:
            return [_Cell(slots, ("the driver does not answer for this GPU",))]
        return [_Cell(slots, (labels.get(gpu.uuid, "idle"),))]
    cells: list[_Cell] = []
    position = 0
    for gi in sorted(gpu.gpu_instances, key=lambda entry: entry.placement.start):
        if gi.placement.start > position:
            cells.append(_Cell(gi.placement.start - position, (), free=True))
        cells.append(_Cell(gi.placement.size, _instance_words(gi, labels)))
        position = gi.placement.start + gi.placement.size
    if position < slots:
        cells.append(_Cell(slots - position, (), free=True))
    return cells


def _instance_words(gi: GpuInstance, labels: Mapping[str, str]) -> tuple[str, ...]:
    name = gi.profile or f"profile {gi.profile_id}"
    if not gi.compute_instances:
        return (name, "no CI")
    return (name, *(labels.get(ci.uuid or "", "idle") for ci in gi.compute_instances))


def _wrapped(cell: _Cell, inner: int) -> list[str]:
    """The cell's words as lines of at most *inner* columns; a longer word is broken, never dropped."""
    return [line for words in cell.words for line in textwrap.wrap(words, inner)] or [""]


def _fill(cell: _Cell, text: str, inner: int) -> str:
    if cell.free:
        return "·" * inner
    # A column of air on the left where there is room for it.
    return (f" {text}" if len(text) < inner else text).ljust(inner)


def _rule(left: str, joint: str, right: str, cells: list[_Cell], column: int) -> str:
    return left + joint.join("─" * (cell.slots * column - 1) for cell in cells) + right
