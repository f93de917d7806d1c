# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses which device now, as labels for a drawing."""

from __future__ import annotations

from pathlib import Path

from ..gpu.model import Gpu, Inventory
from ..gpu.nvml import Library, Loader, NvmlError, PynvmlMissing, session
from ..gpu.processes import GpuProcess, processes_on

_UNKNOWN = "use not known"


def labels(inventory: Inventory, load: Loader, proc: Path = Path("/proc")) -> dict[str, str]:
    """Device UUID (of a GPU or a MIG device) to the processes on it; devices that are not used have no label."""
    found: dict[str, str] = {}
    driven = [gpu for gpu in inventory.gpus if gpu.index is not None]
    if not driven:
        return found
    try:
        with session(load) as library:
            for gpu in driven:
                found |= _labels_of(gpu, library, proc)
    except (NvmlError, PynvmlMissing):
        # The drawing is shown all the same; what keeps the driver from answering is among the inventory's problems.
        return {uuid: _UNKNOWN for gpu in driven for uuid in _uuids(gpu)}
    return found


def _labels_of(gpu: Gpu, library: Library, proc: Path) -> dict[str, str]:
    try:
        using = processes_on(library, gpu.pci_address, proc)
    except NvmlError:
        return dict.fromkeys(_uuids(gpu), _UNKNOWN)
    by_uuid: dict[str, list[GpuProcess]] = {}
    for process in using:
        for uuid in _used_by(process, gpu):
            by_uuid.setdefault(uuid, []).append(process)
    return {uuid: ", ".join(map(str, processes)) for uuid, processes in by_uuid.items()}


def _used_by(process: GpuProcess, gpu: Gpu) -> list[str]:
    """UUIDs of what *process* keeps from being changed: one device, all of a GPU instance, or the whole GPU."""
    if process.gi_id is None:
        return _uuids(gpu)
    instances = (one for one in gpu.gpu_instances if one.id == process.gi_id)
    found = [ci.uuid for one in instances for ci in one.compute_instances if process.ci_id in (None, ci.id)]
    return [uuid for uuid in found if uuid is not None]


def _uuids(gpu: Gpu) -> list[str]:
    found = [ci.uuid for one in gpu.gpu_instances for ci in one.compute_instances]
    return [uuid for uuid in (gpu.uuid, *found) if uuid is not None]
