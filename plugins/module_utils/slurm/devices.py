# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices that ``slurmd`` finds with ``AutoDetect=nvml``, predicted from an inventory.

The rules are those of Slurm 24.11.5 (Debian 13), ``src/plugins/gpu/nvml/gpu_nvml.c``, each checked against the real
``slurmd`` by ``tests/integration``. They are followed where they are odd, too: what counts is what Slurm will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..gpu.model import ComputeInstance, Gpu, GpuInstance, Inventory
from .cpus import CpuTopology, parse_ranges

#: Bytes, the closing NUL included, that ``slurmd`` has for an NVML name. A longer one is refused by NVML.
_NAME_BUFFER = 64

_COMPUTE_SLICES = re.compile(r"\bMIG (\d+)c\.", re.ASCII)
_GPU_SLICES = re.compile(r"(?:^|\b)(\d+)g\.", re.ASCII)


@dataclass(frozen=True)
class Device:
    """What Slurm schedules: a whole GPU, or one compute instance of one that is cut.

    *type* is the full type name as ``slurmd`` detects it. *files* are what a job's device access is made of. *cores* is
    a range of Slurm's own core numbers, ``None`` when the topology or the affinity isn't known. *links* counts the
    NVLinks to each GPU in NVML's order, -1 at the GPU itself; slices have none.
    """

    kind: Literal["gpu", "mig"]
    type: str
    files: tuple[str, ...]
    uuid: str | None
    pci_address: str
    cores: str | None = None
    links: tuple[int, ...] = ()

    @property
    def file(self) -> str:
        """The files as Slurm writes and sorts them."""
        return ",".join(self.files)

    @property
    def unique_id(self) -> str | None:
        """What Slurm knows it by and puts into a job's ``CUDA_VISIBLE_DEVICES``; a whole GPU goes by number instead."""
        return self.uuid if self.kind == "mig" else None

    def __str__(self) -> str:
        """The device for a person: its full type and its files."""
        return f"{self.type} ({self.file})"


def devices(inventory: Inventory, topology: CpuTopology | None = None) -> list[Device]:
    """Every device that ``slurmd`` finds, in the order in which it finds them.

    A GPU that the driver doesn't answer for is not among them; the inventory's problems say so. Nor is a compute
    instance without device files. A GPU with MIG on and nothing to offer is listed whole, as ``slurmd`` does, although
    no job can use it: do not configure Slurm from an inventory with the problem ``mig_without_instances``.
    """
    driven = sorted((gpu for gpu in inventory.gpus if gpu.index is not None), key=lambda gpu: gpu.index or 0)
    addresses = [gpu.pci_address for gpu in driven]
    found: list[Device] = []
    for gpu in driven:
        if gpu.name is None or gpu.minor is None:
            continue
        cores = _cores(gpu, topology)
        slices = list(_slices(gpu, gpu.name, cores)) if gpu.mig.current else []
        found += slices or [
            Device(
                kind="gpu",
                type=type_name(gpu.name),
                files=(f"/dev/nvidia{gpu.minor}",),
                uuid=gpu.uuid,
                pci_address=gpu.pci_address,
                cores=cores,
                links=tuple(-1 if one == gpu.pci_address else gpu.nvlink_peers.get(one, 0) for one in addresses),
            )
        ]
    return found


def file_key(device: Device) -> tuple[tuple[int, int], ...]:
    """Sorts devices as Slurm does: by files, numbers in them by value."""
    digit = ord("0")
    runs = re.findall(r"[0-9]+|[^0-9]", device.file)
    return tuple((digit, int(run)) if run.isdigit() else (ord(run), 0) for run in runs)


def type_name(nvml_name: str) -> str:
    """Slurm's type of a whole GPU by its NVML name."""
    return _lower(nvml_name).replace(" ", "_")


def mig_type_name(gpu_name: str, mig_name: str | None, memory_mib: int | None) -> str | None:
    """Slurm's type of a slice by the NVML names of its GPU and itself; ``None`` where it can't be told.

    The GPU's part ends at its first hyphen. The slice's is what follows ``MIG`` in its name. Where the name is too long
    for ``slurmd`` to be told, it makes one of slices and memory, and what else was in it (``+me``) is lost.
    """
    if mig_name is None:
        return None
    board = type_name(gpu_name).partition("-")[0]
    _, separator, profile = type_name(mig_name).partition("mig_")
    if len(mig_name.encode()) < _NAME_BUFFER and separator:
        return f"{board}_{profile}"
    slices = _GPU_SLICES.search(mig_name)
    if slices is None or memory_mib is None:
        return None
    compute = _COMPUTE_SLICES.search(mig_name)
    part = f"{compute[1]}c." if compute and compute[1] != slices[1] else ""
    return f"{board}_{part}{slices[1]}g.{-(-memory_mib // 1024)}gb"


def _slices(gpu: Gpu, gpu_name: str, cores: str | None) -> Iterable[Device]:
    for instance, one in _in_nvml_order(gpu):
        mig_name = one.name or (f"{gpu_name} MIG {instance.profile}" if instance.profile else None)
        name = mig_type_name(gpu_name, mig_name, instance.memory_mib)
        if name is None or not one.device_files:
            continue
        yield Device("mig", name, one.device_files, one.uuid, gpu.pci_address, cores)


def _in_nvml_order(gpu: Gpu) -> list[tuple[GpuInstance, ComputeInstance]]:
    by_index = {
        one.mig_index: (instance, one)
        for instance in gpu.gpu_instances
        for one in instance.compute_instances
        if one.mig_index is not None
    }
    # slurmd stops at the first index that is free
    contiguous = next(index for index in range(len(by_index) + 1) if index not in by_index)
    return [by_index[index] for index in range(contiguous)]


def _cores(gpu: Gpu, topology: CpuTopology | None) -> str | None:
    if topology is None or gpu.cpu_affinity is None:
        return None
    try:
        return topology.cores(parse_ranges(gpu.cpu_affinity))
    except ValueError:
        return None


def _lower(text: str) -> str:
    # C's tolower() in the C locale; str.lower() would change letters beyond ASCII, and their number of bytes
    return "".join(character.lower() if character.isascii() else character for character in text)
