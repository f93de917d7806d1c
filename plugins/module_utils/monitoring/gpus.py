# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every GPU in the machine can be used, and is cut as the stored layout says."""

from __future__ import annotations

from dataclasses import replace

from ..command.settings import LAYOUT, SettingsError, read_entries, read_settings
from ..gpu.inventory import read_inventory
from ..gpu.model import Inventory
from ..gpu.nvml import NvmlError
from ..mig.apply import look
from ..mig.apply_prepare import Host
from ..mig.checkpoint import CheckpointError
from ..mig.explain import Infeasible
from ..mig.layout import LayoutError
from .metrics import Metric, Sample, gauge
from .probe import CollectError, Probe


def collect(probe: Probe) -> list[Metric]:
    """Nothing on a machine without NVIDIA GPU.

    :raises CollectError: the driver can't be asked about the layout, or the stored layout can't be used.
    """
    inventory = read_inventory(probe.root, probe.load)
    if not inventory.gpus and not inventory.problems:
        return []
    return [*_presence(inventory), *_drift(inventory, probe)]


def _presence(inventory: Inventory) -> list[Metric]:
    problems = sorted({(one.code, one.pci_address or "") for one in inventory.problems})
    return [
        gauge("hpc_gpu_present", "NVIDIA GPUs on the PCI bus.", len(inventory.gpus)),
        gauge(
            "hpc_gpu_usable",
            "GPUs that the driver answers for.",
            sum(gpu.uuid is not None for gpu in inventory.gpus),
        ),
        Metric(
            "hpc_gpu_problem",
            "What keeps a GPU, or all of them (pci_bus_id empty), from being used.",
            tuple(Sample(1, {"code": code, "pci_bus_id": address}) for code, address in problems),
        ),
        Metric(
            "hpc_gpu_mig_instances",
            "Compute instances of each GPU; a MIG device is one.",
            tuple(
                Sample(
                    sum(len(one.compute_instances) for one in gpu.gpu_instances),
                    {"pci_bus_id": gpu.pci_address, "gpu": str(gpu.index)},
                )
                for gpu in inventory.gpus
                if gpu.mig.current is not None and gpu.index is not None
            ),
        ),
    ]


def _drift(inventory: Inventory, probe: Probe) -> list[Metric]:
    path = probe.root / LAYOUT
    stored = path.exists() or path.is_symlink()
    known = [gauge("hpc_gpu_layout_stored", "Whether a GPU layout is stored on this machine.", float(stored))]
    if not stored:
        return known
    try:
        settings = read_settings(probe.root)
        # Who uses a GPU does not matter here: the question is whether it is as it should be.
        options = replace(settings.options, on_busy="destroy")
        plan = look(read_entries(path, settings.config), options, Host(root=probe.root, load=probe.load)).plan
    except (LayoutError, SettingsError, CheckpointError, NvmlError) as error:
        raise CollectError(f"expected to compare the GPUs with {path}: {error}") from error
    differing = [
        Sample(
            float(isinstance(one.result, Infeasible) or (one.result is not None and one.result.changed)),
            {"pci_bus_id": one.gpu.pci_address},
        )
        for one in plan.outcomes
        if one.entry is not None and (one.gpu.mig.current is not None or not one.gpu.mig.capable)
    ]
    return [
        *known,
        Metric("hpc_gpu_layout_drift", "Whether a GPU is cut otherwise than the stored layout says.", tuple(differing)),
        gauge("hpc_gpu_layout_missing", "GPUs that the stored layout names and the machine lacks.", len(plan.missing)),
        gauge(
            "hpc_gpu_layout_unreadable",
            "GPUs whose state the driver does not tell, so that it can't be compared with the layout.",
            sum(gpu.mig.current is None and gpu.mig.capable for gpu in inventory.gpus),
        ),
    ]
