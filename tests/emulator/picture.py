# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as text for a terminal: one line per GPU, its memory slots to scale below."""

from __future__ import annotations

from typing import Any

_SLOT_WIDTH = 8


def draw(machine: dict[str, Any]) -> str:
    """A picture of what ``show`` tells."""
    state = "loaded" if machine["loaded"] else "not loaded"
    lines = [f"driver {machine['driver_version']} ({state}), boot {machine['boots']}, {len(machine['gpus'])} GPUs"]
    for gpu in machine["gpus"]:
        lines.append(f"GPU {gpu['index']}  {gpu['pci_address']}  minor {gpu['minor']}  {gpu['name']}  {_mode(gpu)}")
        if gpu["mig_current"]:
            lines.append("  " + _slots(gpu))
            lines += [
                f"  {gpu['index']}/{instance['id']}/{device['id']}  MIG {device['name']}  {device['uuid']}"
                + (f"  busy: {device['processes']}" if device["processes"] else "")
                for instance in gpu["gpu_instances"]
                for device in instance["compute_instances"]
            ]
        if gpu["processes"]:
            lines.append(f"  busy: {gpu['processes']}")
    lines += [f"fault {fault}" for fault in machine["faults"]]
    return "\n".join(lines)


def _mode(gpu: dict[str, Any]) -> str:
    if gpu["lost"]:
        return "LOST"
    if not gpu["mig_capable"]:
        return "no MIG"
    mode = "MIG on" if gpu["mig_current"] else "MIG off"
    return mode if gpu["mig_current"] == gpu["mig_pending"] else f"{mode}, change waits for a reset"


def _slots(gpu: dict[str, Any]) -> str:
    width = _SLOT_WIDTH if gpu["memory_slots"] <= _SLOT_WIDTH else 6
    cells = []
    slot = 0
    taken = {instance["start"]: instance for instance in gpu["gpu_instances"]}
    while slot < gpu["memory_slots"]:
        instance = taken.get(slot)
        size = instance["size"] if instance else 1
        label = instance["profile"] if instance else "."
        cells.append(label.center(size * width - 1)[: size * width - 1])
        slot += size
    return "|" + "|".join(cells) + "|"
