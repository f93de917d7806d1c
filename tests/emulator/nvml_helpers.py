# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pynvml leaves to its callers: buffers for lists, and reading structures into plain values."""

from __future__ import annotations

from contextlib import AbstractContextManager
from ctypes import byref, c_uint
from typing import Any

import pynvml as n
import pytest


def fails(code: str) -> AbstractContextManager[Any]:
    """Expect an NVML error: ``with fails("IN_USE"): ...``."""
    return pytest.raises(n.nvmlExceptionClass(getattr(n, f"NVML_ERROR_{code}")))


def placements(device: Any, profile_id: int) -> list[tuple[int, int]]:
    """The driver's possible placements (start, size) of a profile."""
    function = n._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstancePossiblePlacements_v2")
    count = c_uint(0)
    n._nvmlCheckReturn(function(device, profile_id, None, byref(count)))
    found = (n.c_nvmlGpuInstancePlacement_t * count.value)()
    n._nvmlCheckReturn(function(device, profile_id, found, byref(count)))
    return [(place.start, place.size) for place in found]


def create_at(device: Any, profile_id: int, start: int, size: int) -> Any:
    place = n.c_nvmlGpuInstancePlacement_t(start, size)
    return n.nvmlDeviceCreateGpuInstanceWithPlacement(device, profile_id, byref(place))


def instances(device: Any, profile_id: int) -> list[Any]:
    """Handles of the GPU instances of a profile."""
    found = (n.c_nvmlGpuInstance_t * 8)()
    count = c_uint(0)
    n.nvmlDeviceGetGpuInstances(device, profile_id, found, byref(count))
    return list(found[: count.value])


def compute_instances(instance: Any, profile_id: int) -> list[Any]:
    """Handles of the compute instances of a profile in a GPU instance."""
    found = (n.c_nvmlComputeInstance_t * 8)()
    count = c_uint(0)
    n.nvmlGpuInstanceGetComputeInstances(instance, profile_id, found, byref(count))
    return list(found[: count.value])


def compute_placements(instance: Any, profile_id: int) -> list[tuple[int, int]]:
    function = n._nvmlGetFunctionPointer("nvmlGpuInstanceGetComputeInstancePossiblePlacements")
    count = c_uint(0)
    n._nvmlCheckReturn(function(instance, profile_id, None, byref(count)))
    found = (n.c_nvmlComputeInstancePlacement_t * count.value)()
    n._nvmlCheckReturn(function(instance, profile_id, found, byref(count)))
    return [(place.start, place.size) for place in found]


def mig_devices(device: Any) -> list[Any]:
    """Handles of all MIG devices, to the first index that has none."""
    found: list[Any] = []
    for index in range(n.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            found.append(n.nvmlDeviceGetMigDeviceHandleByIndex(device, index))
        except n.NVMLError_NotFound:
            break
    return found


def cut(device: Any, *profile_ids: int) -> list[Any]:
    """Create GPU instances where the driver likes, each filled by one compute instance; their handles."""
    made = []
    for profile_id in profile_ids:
        instance = n.nvmlDeviceCreateGpuInstance(device, profile_id)
        n.nvmlGpuInstanceCreateComputeInstance(instance, whole_compute_profile(instance))
        made.append(instance)
    return made


def whole_compute_profile(instance: Any) -> int:
    """The id of the compute profile with the most slices."""
    best = (0, 0)
    for index in range(n.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, index, 0)
        except n.NVMLError_NotSupported:
            continue
        best = max(best, (info.sliceCount, info.id))
    return best[1]


def info(instance: Any) -> tuple[int, int, int, int]:
    """Id, profile id, start and size of a GPU instance."""
    found = n.nvmlGpuInstanceGetInfo(instance)
    return found.id, found.profileId, found.placement.start, found.placement.size
