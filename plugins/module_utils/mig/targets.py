# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which entry of a layout names which GPU of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..gpu.model import Gpu, Problem
from .catalog import Board
from .layout import Entry, LayoutError
from .layout_names import DeviceFilter, Selector, SelectorKind


@dataclass(frozen=True)
class Target:
    """A GPU and the entry that names it; *entry* is ``None`` for a GPU that is left alone.

    *passed_over*: an entry for all GPUs or for a model names it, and it is of no kind that can do MIG: left alone, too.
    """

    gpu: Gpu
    entry: Entry | None
    passed_over: bool = False


@dataclass(frozen=True)
class Targets:
    """All GPUs of a machine in the order of its inventory. *missing*: names in the layout that no GPU here has."""

    targets: tuple[Target, ...]
    missing: tuple[Problem, ...] = ()


def targets(entries: Sequence[Entry], gpus: Sequence[Gpu], boards: Sequence[Board | None]) -> Targets:
    """Match *entries* with *gpus*; *boards* are theirs, by position.

    An index is NVML's where the driver told it, else the position among the GPUs, which are ordered by PCI address as
    NVML's are.

    :raises LayoutError: two entries name one GPU.
    """
    matched = []
    for position, (gpu, board) in enumerate(zip(gpus, boards, strict=True)):
        naming = [entry for entry in entries if _names(entry, gpu, board, position)]
        if len(naming) > 1:
            raise LayoutError(
                f"expected each GPU in one entry, found {gpu.pci_address} named by this entry and by the one at "
                f"{naming[0].where()}: a GPU can be cut in one way only",
                naming[1].path,
                naming[1].line,
            )
        entry = naming[0] if naming else None
        # Of a board that the catalogue knows a driver's "no" is news, and not passed over.
        over = entry is not None and not gpu.mig.capable and board is None and not _one_by_one(entry)
        matched.append(Target(gpu, None if over else entry, over))
    return Targets(tuple(matched), tuple(_missing(entries, gpus, boards)))


def _names(entry: Entry, gpu: Gpu, board: Board | None, position: int) -> bool:
    if entry.filters and not any(_passes(device_filter, gpu) for device_filter in entry.filters):
        return False
    return entry.devices is None or any(_selects(selector, gpu, board, position) for selector in entry.devices)


def _one_by_one(entry: Entry) -> bool:
    return entry.devices is not None and any(selector.kind is not SelectorKind.MODEL for selector in entry.devices)


def _passes(wanted: DeviceFilter, gpu: Gpu) -> bool:
    if (wanted.device_id, wanted.vendor_id) != (gpu.device_id.lower(), gpu.vendor_id.lower()):
        return False
    if wanted.subsystem_device_id is None:
        return True
    found = ((gpu.subsystem_device_id or "").lower(), (gpu.subsystem_vendor_id or "").lower())
    return (wanted.subsystem_device_id, wanted.subsystem_vendor_id) == found


def _selects(selector: Selector, gpu: Gpu, board: Board | None, position: int) -> bool:
    if selector.kind is SelectorKind.INDEX:
        return selector.text == str(position if gpu.index is None else gpu.index)
    if selector.kind is SelectorKind.PCI_ADDRESS:
        return selector.text == gpu.pci_address.lower()
    if selector.kind is SelectorKind.UUID:
        return gpu.uuid is not None and selector.text == gpu.uuid.lower()
    names = (gpu.name, None if board is None else board.model, None if board is None else board.key.replace("_", "-"))
    return any(name is not None and fnmatchcase(name.lower(), selector.text) for name in names)


def _missing(entries: Sequence[Entry], gpus: Sequence[Gpu], boards: Sequence[Board | None]) -> list[Problem]:
    """Names of single GPUs that are not there: a board that fell off the bus, or a layout for another machine."""
    problems = []
    for entry in entries:
        for selector in entry.devices or ():
            if selector.kind is SelectorKind.MODEL:
                continue
            if any(_selects(selector, gpu, board, n) for n, (gpu, board) in enumerate(zip(gpus, boards, strict=True))):
                continue
            present = ", ".join(gpu.pci_address for gpu in gpus) or "no GPU at all"
            problems.append(
                Problem(
                    "device_missing",
                    f"expected a GPU with {selector.kind.replace('_', ' ')} {selector.text} ({entry.where()}), found "
                    f"{present}: see whether a board is gone, or allow missing devices",
                )
            )
    return problems
