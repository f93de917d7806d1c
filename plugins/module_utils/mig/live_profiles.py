# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the GPU instance profiles that the running driver offers, for :func:`.live.overlay`."""

from __future__ import annotations

import ctypes

from ..gpu.control import Span
from ..gpu.instances import profile_of_mig_name
from ..gpu.nvml import Library, NvmlCode, NvmlError, as_text
from .catalog import Engines
from .live import LiveProfile

# The number that pynvml knows would hide the newer profiles; the library refuses what it does not know.
_GPU_INSTANCE_PROFILES = 24
_MOST_PLACEMENTS = 32
_NO_SUCH = (NvmlCode.NOT_SUPPORTED, NvmlCode.INVALID_ARGUMENT)


def read_profiles(library: Library, pci_address: str) -> list[LiveProfile]:
    """The profiles of a GPU with their placements; empty where the driver lists none (before R550 while MIG is off).

    :raises NvmlError: a call failed.
    """
    device = library.call("nvmlDeviceGetHandleByPciBusId", pci_address)
    found: dict[int, LiveProfile] = {}
    for number in range(_GPU_INSTANCE_PROFILES):
        try:
            profile = _profile(library, device, number)
        except NvmlError as error:
            if error.code not in _NO_SUCH:
                raise
            continue
        found.setdefault(profile.id, profile)
    return list(found.values())


def _profile(library: Library, device: object, number: int) -> LiveProfile:
    call = "nvmlDeviceGetGpuInstanceProfileInfo"
    name: str | None
    try:
        info = library.call(call, device, number, 2)
        name = profile_of_mig_name(as_text(info.name))
    except NvmlError as error:
        if error.code != NvmlCode.FUNCTION_NOT_FOUND:
            raise
        info = library.call(call, device, number, 1)
        name = None
    spans = _placements(library, device, int(info.id))
    return LiveProfile(
        id=int(info.id),
        name=name,
        compute_slices=int(info.sliceCount),
        memory_slots=spans[0][1],
        starts=tuple(sorted(start for start, _ in spans)),
        max_count=int(info.instanceCount),
        memory_mib=int(info.memorySizeMB),
        sm_count=int(info.multiprocessorCount),
        engines=Engines(int(info.decoderCount), int(info.encoderCount), int(info.jpegCount), int(info.ofaCount)),
    )


def _placements(library: Library, device: object, profile_id: int) -> list[tuple[int, int]]:
    call = "nvmlDeviceGetGpuInstancePossiblePlacements"
    spans = (Span * _MOST_PLACEMENTS)()
    count = ctypes.c_uint(_MOST_PLACEMENTS)
    library.call(call, device, profile_id, spans, ctypes.byref(count))
    found = [(spans[number].start, spans[number].size) for number in range(min(count.value, _MOST_PLACEMENTS))]
    if not found:
        raise NvmlError(call, NvmlCode.NOT_SUPPORTED, f"the driver lists no placement of profile {profile_id}")
    return found
