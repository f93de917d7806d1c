# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the GPUs are cut into, as a layout in mig-parted's format: to be stored, or given to another machine."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from ..gpu.model import Gpu, Inventory
from ..mig.catalog import Board
from ..mig.demand import Demand
from ..mig.layout import parse_entries
from ..mig.machine import board_of
from ..mig.plan import compute_slices
from ..mig.resolve import demand_on

CONFIG = "current"


@dataclass(frozen=True)
class Export:
    """*text*: the layout. *troubles*: what it can't say, a sentence for each GPU left out because of it."""

    text: str
    troubles: tuple[str, ...] = ()


def export(inventory: Inventory) -> Export:
    """The present state as a layout with the one configuration ``current``; GPUs without MIG are left out."""
    groups: dict[tuple[bool, tuple[tuple[str, int], ...]], list[Gpu]] = {}
    troubles = []
    for gpu in inventory.gpus:
        if not gpu.mig.capable:
            continue
        try:
            groups.setdefault((bool(gpu.mig.current), tuple(_devices(gpu).items())), []).append(gpu)
        except ValueError as error:
            troubles.append(f"GPU {gpu.pci_address} is left out: {error}")
    lines = ["version: v1", "mig-configs:", f"  {CONFIG}:" if groups else f"  {CONFIG}: []"]
    for (enabled, devices), gpus in groups.items():
        lines.append(f"    - devices: [{', '.join(_named(gpu) for gpu in gpus)}]")
        lines.append(f"      mig-enabled: {'true' if enabled else 'false'}")
        if enabled:
            lines.append("      mig-devices:" if devices else "      mig-devices: {}")
            lines += (f'        "{name}": {count}' for name, count in devices)
    return Export("\n".join(lines) + "\n", tuple(troubles))


def _named(gpu: Gpu) -> str:
    return json.dumps(gpu.pci_address) if gpu.index is None else str(gpu.index)


def _devices(gpu: Gpu) -> dict[str, int]:
    """``mig-devices`` of a GPU.

    :raises ValueError: its state is not known, or the format has no words for it.
    """
    if gpu.mig.current is None:
        raise ValueError("its MIG state could not be read")
    counts: Counter[str] = Counter()
    splits = []
    for one in gpu.gpu_instances:
        if one.profile is None:
            raise ValueError(f"profile {one.profile_id} has no name")
        if not one.compute_instances:
            raise ValueError(f"GPU instance {one.id} ({one.profile}) has no compute instance, which can't be written")
        sizes = [compute_slices(ci) or 0 for ci in one.compute_instances]
        whole = int(one.profile.partition("g.")[0])
        splits.append((one.profile_id, tuple(sorted(sizes, reverse=True))))
        counts.update(one.profile if size == whole else f"{size}c.{one.profile}" for size in sizes)
    board = board_of(gpu)
    if board is not None and gpu.mig.current:
        _prove(board, dict(counts), splits)
    return dict(sorted(counts.items(), key=lambda item: (item[0].partition("c.")[2] or item[0], item[0])))


def _prove(board: Board, devices: dict[str, int], splits: list[tuple[int, tuple[int, ...]]]) -> None:
    """Counts don't say which compute instances share a GPU instance, so read back what was written."""
    (entry,) = parse_entries([{"devices": "all", "mig-enabled": True, "mig-devices": devices}])
    demand = demand_on(board, True, entry.mig_devices)
    if not isinstance(demand, Demand):
        return  # names that the catalogue does not know: the driver will
    if sorted((want.profile_id, want.split) for want in demand.wants) != sorted(splits):
        raise ValueError("the format has counts only, which would share compute instances out differently")
