# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML functions about memory: how much is in use, and which of it is broken."""

from __future__ import annotations

import struct

from .call import Context, Outs, nvml, u32, u64, versioned
from .errors import Code, NvmlError
from .gpu import PROCESS_MEMORY_MIB, ComputeInstance, Gpu

_IDLE_MEMORY_MIB = 4  # what the driver keeps of an idle GPU
_AMPERE = 7  # nvmlDeviceArchitecture_t; rows are remapped since, pages were retired before
_CORRECTED, _UNCORRECTED = 0, 1  # nvmlMemoryErrorType_t
_VOLATILE, _AGGREGATE = 0, 1  # nvmlEccCounterType_t


def _memory(gpu: Gpu, device: ComputeInstance | None) -> tuple[int, int, int, int]:
    """Total, reserved, free and used bytes. A compute instance has no memory of its own: its GPU instance's is told."""
    if device is None:
        total = gpu.board.memory_mib
        users = {pid for pid, _, _ in gpu.running()}
        leaked = sum(gpu.leaked_mib.values())
    else:
        instance = device.gpu_instance
        total = instance.profile.memory_mib
        users = {pid for pid, where, _ in gpu.running() if where is instance}
        leaked = gpu.leaked_mib.get(instance.id, 0)
    used = min(_IDLE_MEMORY_MIB + PROCESS_MEMORY_MIB * len(users) + leaked, total)
    return total << 20, 0, total - used << 20, used << 20


@nvml("Q", "nvmlDeviceGetMemoryInfo")
def memory(context: Context, handle: int) -> Outs:
    total, _, free, used = _memory(*context.any_device(handle))
    return (u64(total, free, used),)


@nvml("QI", "nvmlDeviceGetMemoryInfo_v2")
def memory_v2(context: Context, handle: int, version: int) -> Outs:
    # Four bytes of padding follow the version.
    return (versioned(version, struct.pack("=4x4Q", *_memory(*context.any_device(handle)))),)


@nvml("Q", "nvmlDeviceGetEccMode")
def ecc(context: Context, handle: int) -> Outs:
    context.device(handle)
    return u32(1), u32(1)


@nvml("QII", "nvmlDeviceGetTotalEccErrors")
def total_errors(context: Context, handle: int, error: int, counter: int) -> Outs:
    """Uncorrected errors since the driver was loaded; the other counters stay at none."""
    gpu = context.device(handle)
    if error not in (_CORRECTED, _UNCORRECTED) or counter not in (_VOLATILE, _AGGREGATE):
        raise NvmlError(Code.INVALID_ARGUMENT)
    return (u64(gpu.uncorrected_errors if (error, counter) == (_UNCORRECTED, _VOLATILE) else 0),)


@nvml("Q", "nvmlDeviceGetRemappedRows")
def remapped_rows(context: Context, handle: int) -> Outs:
    """Rows remapped for corrected and for uncorrected errors, whether one is pending, whether one failed."""
    gpu = context.device(handle)
    if gpu.board.architecture < _AMPERE:
        raise NvmlError(Code.NOT_SUPPORTED)
    return u32(0), u32(gpu.remapped_rows), u32(gpu.remap_pending), u32(gpu.remap_failed)


@nvml("Q", "nvmlDeviceGetRetiredPagesPendingStatus")
def retired_pages_pending(context: Context, handle: int) -> Outs:
    gpu = context.device(handle)
    if gpu.board.architecture >= _AMPERE:
        raise NvmlError(Code.NOT_SUPPORTED)
    return (u32(gpu.remap_pending),)
