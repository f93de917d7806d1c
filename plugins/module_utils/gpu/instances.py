# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one GPU is cut into, as the driver tells it.

NVML lists instances by profile only, so profiles are found first: NVML numbers the profiles that any board may have,
and answers "not supported" for those that this board lacks. Each has an id, which is what is stored on an instance and
what ``nvidia-smi mig -cgi`` takes. MIG devices, the things with UUID and name, are listed apart and joined by the ids
of their two instances.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .model import ComputeInstance, GpuInstance, Placement
from .nvml import Library, NvmlCode, NvmlError, as_text

#: Told of each failure, with the name of what is unknown because of it.
OnFailure = Callable[[NvmlError, str], None]

# NVML_GPU_INSTANCE_PROFILE_COUNT is 10 in Debian 13's pynvml and 18 in the library of R590: the number that pynvml
# knows would hide the graphics and engine-less profiles of RTX PRO. The library refuses what it does not know.
_GPU_INSTANCE_PROFILES = 24
# Likewise NVML_COMPUTE_INSTANCE_PROFILE_COUNT: 8 there, and newer libraries have a 7-slice profile for NVLink.
_COMPUTE_INSTANCE_PROFILES = 12
_SHARED_ENGINES = 0  # NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, the only one there is

_NO_SUCH = (NvmlCode.NOT_SUPPORTED, NvmlCode.INVALID_ARGUMENT)


@dataclass(frozen=True)
class _GpuProfile:
    id: int
    name: str | None
    memory_mib: int


@dataclass(frozen=True)
class _MigDevice:
    index: int
    uuid: str | None
    name: str | None


def read_instances(library: Library, device: object, fail: OnFailure) -> tuple[tuple[GpuInstance, ...], bool]:
    """GPU instances by slot with their compute instances, and whether the list is sure to be complete.

    *profile* of an instance is ``None`` when neither its MIG device nor the profile has a name.
    """
    return _InstanceReader(library, device, fail).read()


def profile_of_mig_name(name: str) -> str | None:
    """The GPU instance's profile in a MIG device or profile name, ``None`` when there is none.

    ``NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb`` is one compute slice in a ``3g.20gb``; ``MIG 1g.10gb+me`` is itself.
    """
    match = re.search(r"(?:^|\bMIG\s+)(?:\d+c\.)?(\d+g\.\d+gb\S*)$", name.strip())
    return None if match is None else match.group(1)


class _InstanceReader:
    def __init__(self, library: Library, device: object, fail: OnFailure) -> None:
        self._library = library
        self._device = device
        self._report = fail
        self._complete = True
        self._compute_profiles: dict[int, list[int]] = {}

    def read(self) -> tuple[tuple[GpuInstance, ...], bool]:
        try:
            profiles = self._gpu_profiles()
        except NvmlError as error:
            self._fail(error, "MIG profiles")
            return (), False
        handles = []
        for profile in profiles:
            try:
                handles += [(profile, handle) for handle in self._library.gpu_instances(self._device, profile.id)]
            except NvmlError as error:
                self._fail(error, "GPU instances")
        mig_devices = self._mig_devices() if handles else {}
        instances = []
        for profile, handle in handles:
            try:
                instances.append(self._gpu_instance(profile, handle, mig_devices))
            except NvmlError as error:
                self._fail(error, "GPU instances", f"profile {profile.id}")
        return tuple(sorted(instances, key=lambda one: (one.placement.start, one.id))), self._complete

    def _fail(self, error: NvmlError, what: str, which: str = "") -> None:
        self._complete = False
        everywhere = not which or error.code == NvmlCode.FUNCTION_NOT_FOUND
        self._report(error, what if everywhere else f"{what} of {which}")

    def _gpu_profiles(self) -> list[_GpuProfile]:
        profiles: dict[int, _GpuProfile] = {}
        refused: NvmlError | None = None
        for number in range(_GPU_INSTANCE_PROFILES):
            try:
                profile = self._gpu_profile(number)
            except NvmlError as error:
                if error.code not in _NO_SUCH:
                    raise
                refused = error
                continue
            profiles.setdefault(profile.id, profile)
        if not profiles and refused is not None:
            raise refused  # MIG is on, so there must be one
        return list(profiles.values())

    def _gpu_profile(self, number: int) -> _GpuProfile:
        call = "nvmlDeviceGetGpuInstanceProfileInfo"
        try:
            info = self._library.call(call, self._device, number, 2)
        except NvmlError as error:
            if error.code != NvmlCode.FUNCTION_NOT_FOUND:
                raise
            # Before R510 profiles had no names. An instance without a MIG device is then named by the catalogue.
            info = self._library.call(call, self._device, number, 1)
            return _GpuProfile(int(info.id), None, int(info.memorySizeMB))
        return _GpuProfile(int(info.id), profile_of_mig_name(as_text(info.name)), int(info.memorySizeMB))

    def _mig_devices(self) -> dict[tuple[int, int], _MigDevice]:
        """By ids of GPU and compute instance. Indices may have gaps, and there may be fewer than the most possible."""
        devices: dict[tuple[int, int], _MigDevice] = {}
        call = self._library.call
        try:
            for index in range(call("nvmlDeviceGetMaxMigDeviceCount", self._device)):
                try:
                    handle = call("nvmlDeviceGetMigDeviceHandleByIndex", self._device, index)
                except NvmlError as error:
                    if error.code != NvmlCode.NOT_FOUND:
                        raise
                    continue
                ids = (call("nvmlDeviceGetGpuInstanceId", handle), call("nvmlDeviceGetComputeInstanceId", handle))
                devices[ids] = _MigDevice(
                    index, uuid=call("nvmlDeviceGetUUID", handle), name=call("nvmlDeviceGetName", handle)
                )
        except NvmlError as error:
            # Ids and places of the instances come from elsewhere; UUIDs and names stay unknown.
            self._report(error, "MIG devices")
        return devices

    def _gpu_instance(
        self, profile: _GpuProfile, handle: object, mig_devices: dict[tuple[int, int], _MigDevice]
    ) -> GpuInstance:
        info = self._library.call("nvmlGpuInstanceGetInfo", handle)
        identifier, profile_id = int(info.id), int(info.profileId)
        compute_instances = self._compute_instances(handle, identifier, profile_id, mig_devices)
        told = (profile_of_mig_name(one.name) for one in compute_instances if one.name)
        return GpuInstance(
            id=identifier,
            profile_id=profile_id,
            profile=next((name for name in told if name), profile.name),
            placement=Placement(int(info.placement.start), int(info.placement.size)),
            memory_mib=profile.memory_mib,
            compute_instances=compute_instances,
        )

    def _compute_instances(
        self, gpu_instance: object, gi: int, gi_profile: int, mig_devices: dict[tuple[int, int], _MigDevice]
    ) -> tuple[ComputeInstance, ...]:
        instances = []
        try:
            for profile_id in self._compute_profile_ids(gpu_instance, gi_profile):
                for handle in self._library.compute_instances(gpu_instance, profile_id):
                    info = self._library.call("nvmlComputeInstanceGetInfo", handle)
                    mig = mig_devices.get((gi, int(info.id)))
                    instances.append(
                        ComputeInstance(
                            id=int(info.id),
                            profile_id=int(info.profileId),
                            uuid=mig.uuid if mig else None,
                            name=mig.name if mig else None,
                            mig_index=mig.index if mig else None,
                        )
                    )
        except NvmlError as error:
            self._fail(error, "compute instances", f"GPU instance {gi}")
        return tuple(sorted(instances, key=lambda one: one.id))

    def _compute_profile_ids(self, gpu_instance: object, gi_profile: int) -> list[int]:
        # The same for all instances of a profile, and a fully cut machine has many.
        if gi_profile not in self._compute_profiles:
            found: list[int] = []
            for number in range(_COMPUTE_INSTANCE_PROFILES):
                try:
                    found.append(self._compute_profile_id(gpu_instance, number))
                except NvmlError as error:
                    if error.code not in _NO_SUCH:
                        raise
            self._compute_profiles[gi_profile] = list(dict.fromkeys(found))
        return self._compute_profiles[gi_profile]

    def _compute_profile_id(self, gpu_instance: object, number: int) -> int:
        call = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
        try:
            info = self._library.call(call, gpu_instance, number, _SHARED_ENGINES, 2)
        except NvmlError as error:
            if error.code != NvmlCode.FUNCTION_NOT_FOUND:
                raise
            info = self._library.call(call, gpu_instance, number, _SHARED_ENGINES, 1)
        return int(info.id)
