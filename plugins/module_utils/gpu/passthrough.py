# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host can hand its GPUs to virtual machines, and what is in the way. Read from sysfs alone.

A board goes to a guest with everything in its IOMMU group, since the IOMMU can't keep devices of one group apart
(``Documentation/driver-api/vfio.rst`` of the kernel): all functions of the group, PCI bridges excepted, must be
bound to ``vfio-pci`` or to no driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import pci
from .model import Problem

DRIVER = "vfio-pci"
#: PCI class and subclass 0604: PCI bridge, which stays with the host.
_BRIDGE = "0604"


@dataclass(frozen=True)
class Neighbour:
    """Another function in a GPU's IOMMU group. *kernel_driver*: ``None`` when unbound."""

    address: str
    class_code: str
    kernel_driver: str | None


@dataclass(frozen=True)
class Candidate:
    """A GPU as something to hand on. *ready*: nothing is in the way of starting a guest with it."""

    pci_address: str
    device_id: str
    kernel_driver: str | None
    iommu_group: int | None
    neighbours: tuple[Neighbour, ...]
    ready: bool


@dataclass(frozen=True)
class Host:
    """The answer for one host. Codes of *problems*: ``iommu_off``, ``iommu_group_missing``, ``not_vfio``,
    ``group_shared``, ``sysfs_unreadable``."""

    iommu: bool
    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_host(root: Path = Path("/")) -> Host:
    """Look at the GPUs below *root*. A machine without a GPU has none to hand on, which is no problem."""
    functions, problems = pci.scan(root)
    gpus = [function for function in functions if function.is_gpu]
    iommu = _has_groups(root)
    if gpus and not iommu:
        problems.append(
            Problem(
                "iommu_off",
                f"expected IOMMU groups in {root / 'sys/kernel/iommu_groups'}, found none: switch the IOMMU on in the "
                "firmware (VT-d, AMD-Vi) and in the kernel (intel_iommu=on for Intel, no amd_iommu=off for AMD), "
                "then boot again",
            )
        )
    candidates = []
    for gpu in gpus:
        neighbours = tuple(_neighbours(root, gpu))
        found = list(_problems(gpu, neighbours)) if iommu else []
        problems.extend(found)
        candidates.append(
            Candidate(
                pci_address=gpu.address,
                device_id=gpu.device_id,
                kernel_driver=gpu.kernel_driver,
                iommu_group=gpu.iommu_group,
                neighbours=neighbours,
                ready=iommu and not found,
            )
        )
    return Host(iommu, tuple(candidates), tuple(problems))


def _problems(gpu: pci.PciFunction, neighbours: tuple[Neighbour, ...]) -> Iterator[Problem]:
    if gpu.iommu_group is None:
        yield Problem(
            "iommu_group_missing",
            f"expected an IOMMU group for the GPU {gpu.address}, found none though others have one: its slot is behind "
            "no IOMMU, so use another slot",
            gpu.address,
        )
        return
    if gpu.kernel_driver != DRIVER:
        yield Problem(
            "not_vfio",
            f"expected the GPU {gpu.address} to be bound to {DRIVER}, found {gpu.kernel_driver or 'no driver'}: bind "
            f"it at boot (in /etc/modprobe.d: options {DRIVER} ids={pci.NVIDIA_VENDOR_ID}:{gpu.device_id}, and "
            f"softdep nvidia pre: {DRIVER}; then update-initramfs -u), or now: "
            f"driverctl set-override {gpu.address} {DRIVER}",
            gpu.address,
        )
    if others := [other for other in neighbours if other.kernel_driver not in (None, DRIVER)]:
        named = ", ".join(f"{other.address} ({other.kernel_driver})" for other in others)
        yield Problem(
            "group_shared",
            f"expected nothing of the host in IOMMU group {gpu.iommu_group} of the GPU {gpu.address}, found {named}: "
            f"bind them to {DRIVER} too, which the host then loses, or use a slot with a group of its own (a switch "
            "without access control services puts its slots into one group)",
            gpu.address,
        )


def _has_groups(root: Path) -> bool:
    groups = root / "sys/kernel/iommu_groups"
    return groups.is_dir() and any(groups.iterdir())


def _neighbours(root: Path, gpu: pci.PciFunction) -> Iterator[Neighbour]:
    if gpu.iommu_group is None:
        return
    members = root / f"sys/kernel/iommu_groups/{gpu.iommu_group}/devices"
    if not members.is_dir():
        return
    for name in sorted(path.name for path in members.iterdir()):
        # the entries are links to the devices; in a captured tree they may point nowhere
        device = root / "sys/bus/pci/devices" / name
        if name == gpu.address or not device.exists():
            continue
        code = (device / "class").read_text(encoding="ascii").strip().removeprefix("0x")
        if code[:4] == _BRIDGE:
            continue
        driver = device / "driver"
        yield Neighbour(name, code, driver.readlink().name if driver.is_symlink() else None)
