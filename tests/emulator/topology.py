# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the emulated boards sit: PCI addresses, NUMA nodes and the NVLinks between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .boards import Board

#: Buses of the GPUs of an eight-GPU server; further ones sit beside them.
_BUSES = (0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)
_SWITCH_BUSES = (0x05, 0x06, 0x07, 0x08, 0x09, 0x0A)
#: As many GPUs of a kind as an NVSwitch board carries; fewer are linked directly.
_SWITCHED = 8


@dataclass(frozen=True)
class Switch:
    """An NVSwitch on the PCI bus."""

    pci_address: str
    pci_device_id: str


def gpu_addresses(count: int) -> list[str]:
    """PCI addresses of *count* GPUs in NVML's order, which is the order of the addresses."""
    buses = [bus + 3 * further for further in range(4) for bus in _BUSES]
    return [f"0000:{bus:02x}:00.0" for bus in sorted(buses[:count])]


def switches(boards: list[Board]) -> list[Switch]:
    """The NVSwitches of a machine: those of the first kind of board that there are eight of."""
    for board in boards:
        link = board.nvlink
        if link is not None and link.switch_device_id is not None and boards.count(board) >= _SWITCHED:
            return [Switch(f"0000:{bus:02x}:00.0", link.switch_device_id) for bus in _SWITCH_BUSES[: link.switch_count]]
    return []


def link_target(boards: list[Board], position: int, link: int) -> int | str | None:
    """What an NVLink of the GPU at *position* ends at: another position, ``"switch"``, or ``None`` for nothing.

    :raises IndexError: the board has no such link.
    """
    board = boards[position]
    if board.nvlink is None or not 0 <= link < board.nvlink.links:
        raise IndexError(f"{board.key} has no NVLink {link}")
    kin = [place for place, other in enumerate(boards) if other is board]
    here = kin.index(position)
    if board.nvlink.topology == "bridge":
        return kin[here ^ 1] if here ^ 1 < len(kin) else None
    if len(kin) >= _SWITCHED and board.key != "v100":
        return "switch"
    if len(kin) == _SWITCHED:
        return kin[here ^ (link + 1)]  # V100's cube mesh, with six of the seven others
    peers = [place for place in kin if place != position]
    per_peer = board.nvlink.links // len(peers) if peers else 0
    return peers[link // per_peer] if per_peer and link // per_peer < len(peers) else None


def host_numa(root: Path = Path("/sys/devices/system/node")) -> list[str]:
    """CPU lists (``0-15,32-47``) of this machine's NUMA nodes, in the nodes' order."""
    nodes = sorted(root.glob("node[0-9]*"), key=lambda path: int(path.name.removeprefix("node")))
    lists = [(node / "cpulist").read_text().strip() for node in nodes]
    return [entry for entry in lists if entry] or [Path("/sys/devices/system/cpu/online").read_text().strip()]


def parse_cpus(text: str) -> list[int]:
    """The CPUs of a kernel CPU list.

    :raises ValueError: it is none; the message shows the part.
    """
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"expected a CPU list such as 0-15,32-47, found {part!r} in {text!r}")
        cpus += range(int(match[1]), int(match[2] or match[1]) + 1)
    return cpus


def cpu_mask(text: str) -> int:
    """A kernel CPU list as a bit mask."""
    return sum(1 << cpu for cpu in set(parse_cpus(text)))
