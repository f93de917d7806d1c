# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for DCGM: which fields it knows, and what it answers for the GPUs that NVML shows.

What the driver tells comes from NVML. What it does not (errors, profiling) is quiet until a test says otherwise, in a
file of conditions: ``{"FIELD": {"GPU" or "GPU.INSTANCE": value}}``. There, ``unseen`` has GPUs that DCGM leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

CONDITIONS = Path("/run/dcgm-stand-in/conditions.json")

#: Fields that a board without a trouble has as zero.
QUIET = frozenset(
    [
        "DCGM_FI_DEV_XID_ERRORS",
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "DCGM_FI_DEV_RETIRED_SBE",
        "DCGM_FI_DEV_RETIRED_DBE",
        "DCGM_FI_DEV_RETIRED_PENDING",
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
        "DCGM_FI_DEV_THERMAL_VIOLATION",
        "DCGM_FI_DEV_POWER_VIOLATION",
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
    ]
)
#: Fields of the profiling module; a share of the time, or a rate.
PROFILING = frozenset(
    [
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "DCGM_FI_PROF_SM_ACTIVE",
        "DCGM_FI_PROF_SM_OCCUPANCY",
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "DCGM_FI_PROF_PCIE_TX_BYTES",
        "DCGM_FI_PROF_PCIE_RX_BYTES",
    ]
)
LABELS = frozenset(["DCGM_FI_DRIVER_VERSION"])
#: Of the exporter itself, by XID.
XID_COUNT = "DCGM_EXP_XID_ERRORS_COUNT"


def _memory(handle: Any, part: str) -> int:
    return int(getattr(pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2), part)) >> 20


#: Of the board, also for its MIG instances.
_BOARD = {
    "DCGM_FI_DEV_GPU_TEMP": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "DCGM_FI_DEV_MEMORY_TEMP": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU) + 3,
    "DCGM_FI_DEV_SLOWDOWN_TEMP": lambda _: 87,
    "DCGM_FI_DEV_POWER_USAGE": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": pynvml.nvmlDeviceGetTotalEnergyConsumption,
    "DCGM_FI_DEV_SM_CLOCK": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "DCGM_FI_DEV_MEM_CLOCK": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
}
#: Of a whole board only: NVML refuses them in MIG mode.
_WHOLE = {
    "DCGM_FI_DEV_GPU_UTIL": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "DCGM_FI_DEV_MEM_COPY_UTIL": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).memory,
}
#: Of a board or an instance, each for itself.
_OWN = {
    "DCGM_FI_DEV_FB_USED": lambda device: _memory(device, "used"),
    "DCGM_FI_DEV_FB_FREE": lambda device: _memory(device, "free"),
    "DCGM_FI_DEV_FB_RESERVED": lambda device: _memory(device, "reserved"),
}

KNOWN = QUIET | PROFILING | LABELS | {XID_COUNT} | set(_BOARD) | set(_WHOLE) | set(_OWN)


def read(profiling: bool) -> list[dict[str, Any]]:
    """Every GPU without MIG instances and every MIG instance, with its labels and values."""
    pynvml.nvmlInit()
    try:
        conditions = json.loads(CONDITIONS.read_text()) if CONDITIONS.exists() else {}
        driver = pynvml.nvmlSystemGetDriverVersion()
        return [
            {
                "labels": labels,
                "driver": driver,
                "values": _values(gpu, device, labels, profiling, conditions),
                "xids": _of(conditions.get("xids", {}), labels) or {},
            }
            for gpu, device, labels in _entities()
            if not _of(conditions.get("unseen", {}), labels)
        ]
    finally:
        pynvml.nvmlShutdown()


def _entities() -> Iterator[tuple[Any, Any, dict[str, str]]]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        labels = {
            "gpu": str(index),
            "UUID": pynvml.nvmlDeviceGetUUID(gpu),
            "pci_bus_id": pynvml.nvmlDeviceGetPciInfo(gpu).busId,
            "device": f"nvidia{index}",
            "modelName": pynvml.nvmlDeviceGetName(gpu),
        }
        instances = list(_instances(gpu))
        for device, number, profile in instances:
            yield gpu, device, {**labels, "GPU_I_PROFILE": profile, "GPU_I_ID": str(number)}
        if not instances:
            yield gpu, gpu, labels


def _instances(gpu: Any) -> Iterator[tuple[Any, int, str]]:
    try:
        if pynvml.nvmlDeviceGetMigMode(gpu)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return
    except pynvml.NVMLError_NotSupported:
        return
    seen = set()
    for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
        except pynvml.NVMLError_NotFound:
            continue
        number = pynvml.nvmlDeviceGetGpuInstanceId(device)
        if number not in seen:  # compute instances of one GPU instance are one entity
            seen.add(number)
            yield device, number, pynvml.nvmlDeviceGetName(device).rpartition("MIG ")[2]


def _values(
    gpu: Any, device: Any, labels: dict[str, str], profiling: bool, conditions: dict[str, Any]
) -> dict[str, float]:
    whole = device is gpu
    values: dict[str, float] = dict.fromkeys(QUIET, 0)
    values |= {field: ask(gpu) for field, ask in _BOARD.items()}
    values |= {field: ask(device) for field, ask in _OWN.items()}  # type: ignore[no-untyped-call]
    if whole:
        values |= {field: ask(gpu) for field, ask in _WHOLE.items()}  # type: ignore[no-untyped-call]
    if profiling:
        values |= dict.fromkeys(PROFILING, 0.0)
    for field, by_device in conditions.items():
        found = _of(by_device, labels)
        if field in values and found is not None:
            values[field] = found
    return values


def _of(by_device: dict[str, Any], labels: dict[str, str]) -> Any:
    """What the conditions say of this instance, else of its board."""
    own = f"{labels['gpu']}.{labels.get('GPU_I_ID', '')}"
    return by_device.get(own, by_device.get(labels["gpu"]))
