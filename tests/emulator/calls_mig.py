# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML functions about MIG. Field orders are those of nvml.h's structures."""

from __future__ import annotations

import struct

from .boards import GPU_INSTANCE_PROFILE_COUNT, Profile
from .call import Context, Outs, nvml, text, u32, u64, versioned
from .errors import Code, NvmlError
from .gpu import (
    COMPUTE_INSTANCE_PROFILE_COUNT,
    COMPUTE_PLACEMENTS,
    COMPUTE_PROFILE_IDS,
    ComputeInstance,
    Gpu,
    GpuInstance,
    compute_profile_name,
    shared_multiprocessors,
)

#: Since this driver profiles and placements can be asked for while MIG is off.
_PROFILES_WITHOUT_MIG = 550
_NAME_SIZE = 96


# -- mode and devices ------------------------------------------------------------------------------------------------


@nvml("Q", "nvmlDeviceGetMigMode")
def mig_mode(context: Context, handle: int) -> Outs:
    gpu = context.device(handle)
    _ = gpu.mig
    return u32(gpu.mig_current), u32(gpu.mig_pending)


@nvml("QI", "nvmlDeviceSetMigMode")
def set_mig_mode(context: Context, handle: int, mode: int) -> Outs:
    gpu = context.device(handle)
    _ = gpu.mig
    context.require_privilege()
    if mode > 1:
        raise NvmlError(Code.INVALID_ARGUMENT)
    activation = gpu.set_mig_mode(bool(mode))
    context.changed()
    return (u32(activation),)


@nvml("Q", "nvmlDeviceIsMigDeviceHandle")
def is_mig_device(context: Context, handle: int) -> Outs:
    return (u32(context.any_device(handle)[1] is not None),)


@nvml("Q", "nvmlDeviceGetMaxMigDeviceCount")
def max_mig_devices(context: Context, handle: int) -> Outs:
    gpu = context.device(handle)
    return (u32(gpu.mig.max_devices if gpu.board.mig is not None and gpu.mig_current else 0),)


@nvml("QI", "nvmlDeviceGetMigDeviceHandleByIndex")
def mig_device_by_index(context: Context, handle: int, index: int) -> Outs:
    gpu = context.device(handle)
    if index >= gpu.mig.max_devices:
        raise NvmlError(Code.INVALID_ARGUMENT)
    devices = gpu.mig_devices()
    if index >= len(devices):
        raise NvmlError(Code.NOT_FOUND)
    return (u64(devices[index].device_handle),)


def _mig_device(context: Context, handle: int) -> ComputeInstance:
    device = context.any_device(handle)[1]
    if device is None:
        raise NvmlError(Code.INVALID_ARGUMENT)
    return device


@nvml("Q", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
def parent(context: Context, handle: int) -> Outs:
    return (u64(_mig_device(context, handle).gpu_instance.gpu.handle),)


@nvml("Q", "nvmlDeviceGetGpuInstanceId")
def gpu_instance_id(context: Context, handle: int) -> Outs:
    return (u32(_mig_device(context, handle).gpu_instance.id),)


@nvml("Q", "nvmlDeviceGetComputeInstanceId")
def compute_instance_id(context: Context, handle: int) -> Outs:
    return (u32(_mig_device(context, handle).id),)


@nvml("Q", "nvmlDeviceGetAttributes", "nvmlDeviceGetAttributes_v2")
def attributes(context: Context, handle: int) -> Outs:
    device = _mig_device(context, handle)
    profile = device.gpu_instance.profile
    engines = profile.engines
    return (
        struct.pack(
            "=8IQ",
            shared_multiprocessors(profile, device.slices),
            engines.copy,
            engines.decoder,
            engines.encoder,
            engines.jpeg,
            engines.ofa,
            profile.compute,
            device.slices,
            profile.memory_mib,
        ),
    )


# -- GPU instances ---------------------------------------------------------------------------------------------------


def _readable_mig(context: Context, handle: int) -> Gpu:
    gpu = context.device(handle)
    if context.machine.driver_major < _PROFILES_WITHOUT_MIG:
        gpu.require_mig_on()
    _ = gpu.mig
    return gpu


def _profile_by_nvml_index(context: Context, handle: int, index: int) -> Profile:
    gpu = _readable_mig(context, handle)
    if index >= GPU_INSTANCE_PROFILE_COUNT:
        raise NvmlError(Code.INVALID_ARGUMENT)
    profile = gpu.mig.by_nvml_index(index)
    if profile is None:
        raise NvmlError(Code.NOT_SUPPORTED)
    return profile


def _profile_numbers(profile: Profile, with_p2p: bool) -> bytes:
    """The fields that all versions share; the third left out *isP2pSupported*, which is never so here."""
    engines = profile.engines
    return u32(
        profile.id,
        *([0] if with_p2p else []),
        profile.compute,
        profile.max,
        profile.sm,
        engines.copy,
        engines.decoder,
        engines.encoder,
        engines.jpeg,
        engines.ofa,
    )


@nvml("QI", "nvmlDeviceGetGpuInstanceProfileInfo")
def profile_info(context: Context, handle: int, index: int) -> Outs:
    profile = _profile_by_nvml_index(context, handle, index)
    return (_profile_numbers(profile, with_p2p=True) + u64(profile.memory_mib),)


@nvml("QII", "nvmlDeviceGetGpuInstanceProfileInfoV")
def profile_info_v(context: Context, handle: int, index: int, version: int) -> Outs:
    profile = _profile_by_nvml_index(context, handle, index)
    name = text(f"MIG {profile.name}", _NAME_SIZE).ljust(_NAME_SIZE, b"\0")
    if version >> 24 == 2:
        body = _profile_numbers(profile, with_p2p=True) + bytes(4) + u64(profile.memory_mib) + name
    elif version >> 24 == 3:
        body = _profile_numbers(profile, with_p2p=False) + u64(profile.memory_mib) + name + u32(0) + bytes(4)
    else:
        raise NvmlError(Code.ARGUMENT_VERSION_MISMATCH)
    return (versioned(version, body),)


@nvml("QI", "nvmlDeviceGetGpuInstanceRemainingCapacity")
def remaining(context: Context, handle: int, profile_id: int) -> Outs:
    gpu = context.device(handle)
    gpu.require_mig_on()
    return (u32(gpu.remaining(gpu.profile(profile_id))),)


@nvml("QI", "nvmlDeviceGetGpuInstancePossiblePlacements", "nvmlDeviceGetGpuInstancePossiblePlacements_v2")
def placements(context: Context, handle: int, profile_id: int) -> Outs:
    """Every placement of the board's grid, whatever is occupied."""
    profile = _readable_mig(context, handle).profile(profile_id)
    return b"".join(u32(start, profile.size) for start in profile.starts), u32(len(profile.starts))


@nvml("QI", "nvmlDeviceCreateGpuInstance")
def create(context: Context, handle: int, profile_id: int) -> Outs:
    gpu = context.device(handle)
    context.require_privilege()
    instance = gpu.create_instance(profile_id)
    context.changed()
    return (u64(instance.handle),)


@nvml("QIII", "nvmlDeviceCreateGpuInstanceWithPlacement")
def create_at(context: Context, handle: int, profile_id: int, start: int, size: int) -> Outs:
    gpu = context.device(handle)
    context.require_privilege()
    instance = gpu.create_instance(profile_id, start, size)
    context.changed()
    return (u64(instance.handle),)


@nvml("QI", "nvmlDeviceGetGpuInstances")
def instances(context: Context, handle: int, profile_id: int) -> Outs:
    gpu = context.device(handle)
    gpu.require_mig_on()
    gpu.profile(profile_id)
    found = [instance.handle for instance in gpu.sorted_instances if instance.profile.id == profile_id]
    return u64(*found), u32(len(found))


@nvml("QI", "nvmlDeviceGetGpuInstanceById")
def instance_by_id(context: Context, handle: int, number: int) -> Outs:
    gpu = context.device(handle)
    gpu.require_mig_on()
    if number not in gpu.instances:
        raise NvmlError(Code.NOT_FOUND)
    return (u64(gpu.instances[number].handle),)


@nvml("Q", "nvmlGpuInstanceGetInfo")
def instance_info(context: Context, handle: int) -> Outs:
    instance = context.gpu_instance(handle)
    numbers = u32(instance.id, instance.profile.id, instance.start, instance.profile.size)
    return (u64(instance.gpu.handle) + numbers,)


@nvml("Q", "nvmlGpuInstanceDestroy")
def destroy(context: Context, handle: int) -> Outs:
    instance = context.gpu_instance(handle)
    context.require_privilege()
    instance.gpu.destroy_instance(instance)
    context.changed()
    return ()


# -- compute instances -----------------------------------------------------------------------------------------------


def _compute_slices(context: Context, handle: int, index: int, engine: int) -> tuple[GpuInstance, int]:
    """The GPU instance and the slices of the compute profile at an index of NVML_COMPUTE_INSTANCE_PROFILE_*."""
    instance = context.gpu_instance(handle)
    if index >= COMPUTE_INSTANCE_PROFILE_COUNT or engine != 0:
        raise NvmlError(Code.INVALID_ARGUMENT)
    for slices in COMPUTE_PLACEMENTS[instance.profile.compute]:
        if COMPUTE_PROFILE_IDS[slices] == index:
            return instance, slices
    raise NvmlError(Code.NOT_SUPPORTED)


def _compute_numbers(instance: GpuInstance, slices: int) -> bytes:
    engines = instance.profile.engines
    return u32(
        COMPUTE_PROFILE_IDS[slices],
        slices,
        len(COMPUTE_PLACEMENTS[instance.profile.compute][slices]),
        shared_multiprocessors(instance.profile, slices),
        engines.copy,
        engines.decoder,
        engines.encoder,
        engines.jpeg,
        engines.ofa,
    )


@nvml("QII", "nvmlGpuInstanceGetComputeInstanceProfileInfo")
def compute_profile_info(context: Context, handle: int, index: int, engine: int) -> Outs:
    return (_compute_numbers(*_compute_slices(context, handle, index, engine)),)


@nvml("QIII", "nvmlGpuInstanceGetComputeInstanceProfileInfoV")
def compute_profile_info_v(context: Context, handle: int, index: int, engine: int, version: int) -> Outs:
    instance, slices = _compute_slices(context, handle, index, engine)
    name = text(f"MIG {compute_profile_name(instance.profile, slices)}", _NAME_SIZE).ljust(_NAME_SIZE, b"\0")
    body = _compute_numbers(instance, slices) + name
    if version >> 24 == 3:
        body += u32(0)
    elif version >> 24 != 2:
        raise NvmlError(Code.ARGUMENT_VERSION_MISMATCH)
    return (versioned(version, body),)


@nvml("QI", "nvmlGpuInstanceGetComputeInstanceRemainingCapacity")
def compute_remaining(context: Context, handle: int, profile_id: int) -> Outs:
    instance = context.gpu_instance(handle)
    slices = instance.gpu.compute_profile(instance, profile_id)
    return (u32(len(instance.gpu.free_compute_starts(instance, slices))),)


@nvml("QI", "nvmlGpuInstanceGetComputeInstancePossiblePlacements")
def compute_placements(context: Context, handle: int, profile_id: int) -> Outs:
    instance = context.gpu_instance(handle)
    slices = instance.gpu.compute_profile(instance, profile_id)
    starts = COMPUTE_PLACEMENTS[instance.profile.compute][slices]
    return b"".join(u32(start, slices) for start in starts), u32(len(starts))


@nvml("QI", "nvmlGpuInstanceCreateComputeInstance")
def create_compute(context: Context, handle: int, profile_id: int) -> Outs:
    instance = context.gpu_instance(handle)
    context.require_privilege()
    created = instance.gpu.create_compute_instance(instance, profile_id)
    context.changed()
    return (u64(created.handle),)


@nvml("QIII", "nvmlGpuInstanceCreateComputeInstanceWithPlacement")
def create_compute_at(context: Context, handle: int, profile_id: int, start: int, size: int) -> Outs:
    instance = context.gpu_instance(handle)
    context.require_privilege()
    created = instance.gpu.create_compute_instance(instance, profile_id, start, size)
    context.changed()
    return (u64(created.handle),)


@nvml("QI", "nvmlGpuInstanceGetComputeInstances")
def compute_instances(context: Context, handle: int, profile_id: int) -> Outs:
    instance = context.gpu_instance(handle)
    instance.gpu.compute_profile(instance, profile_id)
    present = sorted(instance.compute_instances.items())
    found = [device.handle for _, device in present if device.profile_id == profile_id]
    return u64(*found), u32(len(found))


@nvml("QI", "nvmlGpuInstanceGetComputeInstanceById")
def compute_by_id(context: Context, handle: int, number: int) -> Outs:
    instance = context.gpu_instance(handle)
    if number not in instance.compute_instances:
        raise NvmlError(Code.NOT_FOUND)
    return (u64(instance.compute_instances[number].handle),)


def _compute_info(context: Context, handle: int) -> tuple[bytes, bytes]:
    """The first version of the structure, and what the second adds."""
    device = context.compute_instance(handle)
    instance = device.gpu_instance
    head = u64(instance.gpu.handle, instance.handle) + u32(device.id, device.profile_id)
    return head, u32(device.start, device.slices)


@nvml("Q", "nvmlComputeInstanceGetInfo")
def compute_info(context: Context, handle: int) -> Outs:
    return (_compute_info(context, handle)[0],)


@nvml("Q", "nvmlComputeInstanceGetInfo_v2")
def compute_info_v2(context: Context, handle: int) -> Outs:
    return (b"".join(_compute_info(context, handle)),)


@nvml("Q", "nvmlComputeInstanceDestroy")
def destroy_compute(context: Context, handle: int) -> Outs:
    device = context.compute_instance(handle)
    context.require_privilege()
    device.gpu_instance.gpu.destroy_compute_instance(device)
    context.changed()
    return ()
