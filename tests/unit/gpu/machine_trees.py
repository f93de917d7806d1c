# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PCI trees of machines as one small JSON file each: recorded from a running machine, expanded for a test.

To record one: ``python3 tests/unit/gpu/machine_trees.py "what machine this is" > tests/unit/gpu/trees/NAME.json``.
It reads sysfs and the driver's text files only, needs no root, and stores no serial number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TREES = Path(__file__).parent / "trees"

_ATTRIBUTES = ("vendor", "device", "class", "subsystem_vendor", "subsystem_device", "numa_node", "local_cpulist")
_LINKS = {"driver": "bus/pci/drivers", "iommu_group": "kernel/iommu_groups", "physfn": "bus/pci/devices"}
_TEXTS = ("sys/module/nvidia/version", "proc/driver/nvidia/version", "proc/driver/nvidia-caps/mig-minors")


def record(about: str, root: Path = Path("/")) -> dict[str, Any]:
    """The PCI functions of a machine, by address, with their place in ``/sys/devices``."""
    sys_root = (root / "sys").resolve()
    devices: dict[str, dict[str, str]] = {}
    for entry in sorted((root / "sys/bus/pci/devices").iterdir()):
        device = {"at": str(entry.resolve().relative_to(sys_root).parent)}
        for name in _ATTRIBUTES:
            if (entry / name).exists():
                device[name] = (entry / name).read_text().strip()
        for name in _LINKS:
            if (entry / name).is_symlink():
                device[name] = (entry / name).readlink().name
        devices[entry.name] = device
    texts = {name: (root / name).read_text() for name in _TEXTS if (root / name).exists()}
    return {"about": about, "devices": devices, "texts": texts}


def expand(tree: dict[str, Any], root: Path) -> Path:
    """Write *tree* below *root* as a kernel shows it: directories in ``/sys/devices`` and links to them."""
    bus = root / "sys/bus/pci/devices"
    bus.mkdir(parents=True, exist_ok=True)
    for address, device in tree["devices"].items():
        add_device(root, address, device)
    for name, text in tree["texts"].items():
        write(root / name, text)
    return root


def add_device(root: Path, address: str, device: dict[str, str]) -> Path:
    """Write one PCI function; gives its directory."""
    sys_root = root / "sys"
    place = Path(device.get("at", f"devices/pci{address[:-8]}:00")) / address
    directory = sys_root / place
    directory.mkdir(parents=True)
    for name, value in device.items():
        if name in _LINKS:
            up = "../" * len(place.parts)
            (directory / name).symlink_to(f"{up}{_LINKS[name]}/{value}")
        elif name != "at":
            (directory / name).write_text(f"{value}\n")
    link = sys_root / "bus/pci/devices" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../../../{place}")
    return directory


def write(path: Path, text: str = "") -> Path:
    """Write a file and the directories it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(name: str) -> dict[str, Any]:
    """A tree of ``trees/`` by name."""
    tree: dict[str, Any] = json.loads((TREES / f"{name}.json").read_text())
    return tree


def dump(tree: dict[str, Any]) -> str:
    """JSON with one line for each device, so that a difference can be read."""
    lines = [f'{{"about": {json.dumps(tree["about"])},', ' "devices": {']
    devices = [f"  {json.dumps(address)}: {json.dumps(device)}" for address, device in tree["devices"].items()]
    lines += [",\n".join(devices), " },", f' "texts": {json.dumps(tree["texts"], indent=2)}}}']
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(dump(record(sys.argv[1])), end="")
