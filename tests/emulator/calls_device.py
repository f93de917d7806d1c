# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML functions about the machine and whole GPUs. Field orders are those of nvml.h's structures."""

from __future__ import annotations

import struct
from pathlib import Path

from . import topology
from .boards import Board
from .call import TEXT, Context, Outs, answering, counted, nvml, text, u32, u64, versioned
from .errors import Code, NvmlError
from .gpu import PROCESS_MEMORY_MIB, ComputeInstance, Gpu, GpuInstance

_NVIDIA = 0x10DE
#: nvmlBrandType_t
_BRANDS = {"Tesla": 2, "NVIDIA RTX": 12, "NVIDIA": 14}
_NVLINK_VERSIONS = {5: 2, 7: 3, 9: 4, 10: 5}


# -- the machine -----------------------------------------------------------------------------------------------------


@nvml("I", "nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags")
def initialise(context: Context, _flags: int) -> Outs:
    if not context.machine.loaded:
        raise NvmlError(Code.DRIVER_NOT_LOADED)
    return ()


@nvml("", "nvmlShutdown")
def shutdown(_context: Context) -> Outs:
    return ()


@nvml("I", "nvmlSystemGetDriverVersion")
def driver_version(context: Context, size: int) -> Outs:
    return (text(context.machine.driver_version, size),)


@nvml("I", "nvmlSystemGetNVMLVersion")
def nvml_version(context: Context, size: int) -> Outs:
    return (text(context.machine.nvml_version, size),)


@nvml("", "nvmlSystemGetCudaDriverVersion", "nvmlSystemGetCudaDriverVersion_v2")
def cuda_version(context: Context) -> Outs:
    major = context.machine.driver_major
    return (u32(13000 if major >= 580 else 12080 if major >= 570 else 12040 if major >= 550 else 12000),)


@nvml("II", "nvmlSystemGetProcessName")
def process_name(_context: Context, pid: int, size: int) -> Outs:
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError as error:
        raise NvmlError(Code.NOT_FOUND) from error
    return (text(name[: size - 1], size),)


# -- finding a device ------------------------------------------------------------------------------------------------


@nvml("", "nvmlDeviceGetCount", "nvmlDeviceGetCount_v2")
def count(context: Context) -> Outs:
    return (u32(len(context.machine.gpus)),)


@nvml("I", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByIndex_v2")
def by_index(context: Context, index: int) -> Outs:
    if index >= len(context.machine.gpus):
        raise NvmlError(Code.INVALID_ARGUMENT)
    return (u64(answering(context.machine.gpus[index]).handle),)


@nvml(TEXT, "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetHandleByPciBusId_v2")
def by_pci(context: Context, name: str) -> Outs:
    domain, _, rest = name.strip("\0").lower().rpartition(":")[0].rpartition(":")
    slot = name.strip("\0").lower().rpartition(":")[2]
    try:
        wanted = (int(domain or "0", 16), int(rest, 16), int(slot.partition(".")[0], 16))
    except ValueError as error:
        raise NvmlError(Code.INVALID_ARGUMENT) from error
    for gpu in context.machine.gpus:
        if _pci_numbers(gpu.pci_address) == wanted:
            return (u64(answering(gpu).handle),)
    raise NvmlError(Code.NOT_FOUND)


@nvml(TEXT, "nvmlDeviceGetHandleByUUID")
def by_uuid(context: Context, name: str) -> Outs:
    wanted = name.strip("\0").lower()
    for gpu in context.machine.gpus:
        if gpu.uuid.lower() == wanted:
            return (u64(answering(gpu).handle),)
        for device in gpu.mig_devices():
            if device.uuid.lower() == wanted:
                answering(gpu)
                return (u64(device.device_handle),)
    raise NvmlError(Code.NOT_FOUND)


@nvml(TEXT, "nvmlDeviceGetHandleBySerial")
def by_serial(context: Context, name: str) -> Outs:
    for gpu in context.machine.gpus:
        if gpu.serial == name.strip("\0"):
            return (u64(answering(gpu).handle),)
    raise NvmlError(Code.NOT_FOUND)


# -- what a device is ------------------------------------------------------------------------------------------------


@nvml("QI", "nvmlDeviceGetName")
def name(context: Context, handle: int, size: int) -> Outs:
    gpu, device = context.any_device(handle)
    return (text(gpu.board.name if device is None else f"{gpu.board.name} MIG {device.name}", size),)


@nvml("QI", "nvmlDeviceGetUUID")
def uuid(context: Context, handle: int, size: int) -> Outs:
    gpu, device = context.any_device(handle)
    return (text(gpu.uuid if device is None else device.uuid, size),)


@nvml("QI", "nvmlDeviceGetSerial")
def serial(context: Context, handle: int, size: int) -> Outs:
    return (text(context.device(handle).serial, size),)


@nvml("QI", "nvmlDeviceGetVbiosVersion")
def vbios(context: Context, handle: int, size: int) -> Outs:
    context.device(handle)
    return (text("96.00.00.00.01", size),)


@nvml("Q", "nvmlDeviceGetIndex")
def index(context: Context, handle: int) -> Outs:
    gpu, device = context.any_device(handle)
    return (u32(gpu.index if device is None else gpu.mig_devices().index(device)),)


@nvml("Q", "nvmlDeviceGetMinorNumber")
def minor(context: Context, handle: int) -> Outs:
    return (u32(context.device(handle).minor),)


@nvml("Q", "nvmlDeviceGetBrand")
def brand(context: Context, handle: int) -> Outs:
    board = context.device(handle).board
    return (u32(next(number for prefix, number in _BRANDS.items() if board.name.startswith(prefix))),)


@nvml("Q", "nvmlDeviceGetArchitecture")
def architecture(context: Context, handle: int) -> Outs:
    return (u32(context.device(handle).board.architecture),)


@nvml("Q", "nvmlDeviceGetCudaComputeCapability")
def compute_capability(context: Context, handle: int) -> Outs:
    major, minor_ = context.device(handle).board.compute_capability
    return u32(major), u32(minor_)


def _pci_numbers(address: str) -> tuple[int, int, int]:
    domain, bus, slot = address.partition(".")[0].split(":")
    return int(domain, 16), int(bus, 16), int(slot, 16)


def _pci(address: str, device_id: str, subsystem_id: str) -> tuple[tuple[int, ...], bytes, bytes]:
    """Numbers, the bus id with eight digits of domain, and the older one with four."""
    domain, bus, slot = _pci_numbers(address)
    ids = (int(device_id, 16) << 16 | _NVIDIA, int(subsystem_id, 16) << 16 | _NVIDIA)
    tail = f"{bus:02X}:{slot:02X}.0"
    return (domain, bus, slot, *ids), f"{domain:08X}:{tail}".encode(), f"{domain:04X}:{tail}".encode()


def _pci_v3(address: str, device_id: str, subsystem_id: str) -> bytes:
    numbers, bus_id, legacy = _pci(address, device_id, subsystem_id)
    return struct.pack("=16s5I32s", legacy, *numbers, bus_id)


def _pci_v2(address: str, device_id: str, subsystem_id: str) -> bytes:
    numbers, _, legacy = _pci(address, device_id, subsystem_id)
    return struct.pack("=16s5I16x", legacy, *numbers)


def _board_pci(gpu: Gpu) -> tuple[str, str, str]:
    return gpu.pci_address, gpu.board.pci_device_id, gpu.board.subsystem_device_id


@nvml("Q", "nvmlDeviceGetPciInfo_v3")
def pci_info(context: Context, handle: int) -> Outs:
    return (_pci_v3(*_board_pci(context.any_device(handle)[0])),)


@nvml("Q", "nvmlDeviceGetPciInfo_v2")
def pci_info_v2(context: Context, handle: int) -> Outs:
    return (_pci_v2(*_board_pci(context.any_device(handle)[0])),)


@nvml("QI", "nvmlDeviceGetPciInfoExt")
def pci_info_ext(context: Context, handle: int, version: int) -> Outs:
    numbers, bus_id, _ = _pci(*_board_pci(context.any_device(handle)[0]))
    return (versioned(version, struct.pack("=7I32s", *numbers, 0x03, 0x02, bus_id)),)


# -- state -----------------------------------------------------------------------------------------------------------


@nvml("Q", "nvmlDeviceGetBAR1MemoryInfo")
def bar1(context: Context, handle: int) -> Outs:
    total = 1 << (context.device(handle).board.memory_mib.bit_length() + 20)
    return (u64(total, total - (1 << 20), 1 << 20),)


@nvml("Q", "nvmlDeviceGetUtilizationRates")
def utilization(context: Context, handle: int) -> Outs:
    gpu, device = context.any_device(handle)
    if gpu.mig_current or device is not None:  # NVML tells no utilisation in MIG mode
        raise NvmlError(Code.NOT_SUPPORTED)
    return (u32(0, 0),)


@nvml("Q", "nvmlDeviceGetComputeMode", "nvmlDeviceGetPerformanceState")
def zero(context: Context, handle: int) -> Outs:
    context.device(handle)
    return (u32(0),)


@nvml("Q", "nvmlDeviceGetPersistenceMode")
def persistence(context: Context, handle: int) -> Outs:
    context.device(handle)
    return (u32(1),)


@nvml("Q", "nvmlDeviceGetPowerUsage")
def power(context: Context, handle: int) -> Outs:
    board = context.device(handle).board
    busy = any(context.device(handle).running())
    return (u32(board.power_limit_w * (700 if busy else 100)),)


@nvml("Q", "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetEnforcedPowerLimit")
def power_limit(context: Context, handle: int) -> Outs:
    return (u32(context.device(handle).board.power_limit_w * 1000),)


@nvml("Q", "nvmlDeviceGetTotalEnergyConsumption")
def energy(context: Context, handle: int) -> Outs:
    context.device(handle)
    return (u64(0),)


@nvml("QI", "nvmlDeviceGetTemperature")
def temperature(context: Context, handle: int, _sensor: int) -> Outs:
    context.device(handle)
    return (u32(34),)


# -- clocks ----------------------------------------------------------------------------------------------------------


def _clock(board: Board, kind: int) -> int:
    """The highest clock in MHz; kinds are nvmlClockType_t: graphics, SM, memory, video."""
    if kind > 3:
        raise NvmlError(Code.INVALID_ARGUMENT)
    return board.memory_clock if kind == 2 else board.graphics_clocks[1]


@nvml(
    "QI",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetApplicationsClock",
    "nvmlDeviceGetDefaultApplicationsClock",
)
def clock(context: Context, handle: int, kind: int) -> Outs:
    return (u32(_clock(context.device(handle).board, kind)),)


@nvml("QI", "nvmlDeviceGetSupportedMemoryClocks")
def memory_clocks(context: Context, handle: int, room: int) -> Outs:
    return counted([u32(context.device(handle).board.memory_clock)], room)


@nvml("QII", "nvmlDeviceGetSupportedGraphicsClocks")
def graphics_clocks(context: Context, handle: int, memory_clock: int, room: int) -> Outs:
    board = context.device(handle).board
    if memory_clock != board.memory_clock:
        raise NvmlError(Code.NOT_FOUND)
    low, high = board.graphics_clocks
    return counted([u32(value) for value in range(high, low - 1, -15)], room)


@nvml("QII", "nvmlDeviceSetApplicationsClocks")
def set_clocks(context: Context, handle: int, _memory_clock: int, _graphics_clock: int) -> Outs:
    """Refused: what nothing keeps must not seem to be set."""
    context.device(handle)
    context.require_privilege()
    raise NvmlError(Code.NOT_SUPPORTED)


@nvml("Q", "nvmlDeviceResetApplicationsClocks")
def reset_clocks(context: Context, handle: int) -> Outs:
    context.device(handle)
    context.require_privilege()
    return ()


# -- place -----------------------------------------------------------------------------------------------------------


def _mask(cpus: str, words: int) -> bytes:
    mask = topology.cpu_mask(cpus) & ((1 << 64 * words) - 1)
    return mask.to_bytes(8 * words, "little")


@nvml("QI", "nvmlDeviceGetCpuAffinity")
def cpu_affinity(context: Context, handle: int, words: int) -> Outs:
    return (_mask(context.any_device(handle)[0].cpus, words),)


@nvml("QII", "nvmlDeviceGetCpuAffinityWithinScope")
def cpu_affinity_within(context: Context, handle: int, words: int, _scope: int) -> Outs:
    return (_mask(context.any_device(handle)[0].cpus, words),)


@nvml("QII", "nvmlDeviceGetMemoryAffinity")
def memory_affinity(context: Context, handle: int, words: int, _scope: int) -> Outs:
    return ((1 << context.any_device(handle)[0].numa_node).to_bytes(8 * words, "little"),)


@nvml("Q", "nvmlDeviceGetNumaNodeId")
def numa_node(context: Context, handle: int) -> Outs:
    return (u32(context.device(handle).numa_node),)


# -- NVLink ----------------------------------------------------------------------------------------------------------


@nvml("QI", "nvmlDeviceGetNvLinkState")
def link_state(context: Context, handle: int, link: int) -> Outs:
    return (u32(context.machine.link(context.device(handle), link) is not None),)


@nvml("QI", "nvmlDeviceGetNvLinkVersion")
def link_version(context: Context, handle: int, link: int) -> Outs:
    gpu = context.device(handle)
    context.machine.link(gpu, link)
    return (u32(_NVLINK_VERSIONS[gpu.board.architecture]),)


def _far_end(context: Context, handle: int, link: int) -> tuple[str, str, str]:
    far = context.machine.link(context.device(handle), link)
    match far:
        case None:
            raise NvmlError(Code.NOT_SUPPORTED)  # the link is down
        case Gpu():
            return _board_pci(far)
        case topology.Switch():
            return far.pci_address, far.pci_device_id, "0000"
    return "0000:00:00.0", "0000", "0000"  # a switch that is not on this machine's PCI bus


@nvml("QI", "nvmlDeviceGetNvLinkRemotePciInfo_v2")
def link_remote(context: Context, handle: int, link: int) -> Outs:
    return (_pci_v3(*_far_end(context, handle, link)),)


@nvml("QI", "nvmlDeviceGetNvLinkRemotePciInfo")
def link_remote_v1(context: Context, handle: int, link: int) -> Outs:
    return (_pci_v2(*_far_end(context, handle, link)),)


@nvml("QI", "nvmlDeviceGetNvLinkRemoteDeviceType")
def link_remote_type(context: Context, handle: int, link: int) -> Outs:
    """nvmlIntNvLinkDeviceType_t: 0 GPU, 2 switch."""
    far = context.machine.link(context.device(handle), link)
    if far is None:
        raise NvmlError(Code.NOT_SUPPORTED)
    return (u32(0 if isinstance(far, Gpu) else 2),)


# -- processes -------------------------------------------------------------------------------------------------------

_NO_INSTANCE = 0xFFFFFFFF
_PROCESS_MEMORY = PROCESS_MEMORY_MIB << 20


def _processes(context: Context, handle: int) -> list[tuple[int, GpuInstance | None, ComputeInstance | None]]:
    gpu, device = context.any_device(handle)
    return [entry for entry in gpu.running() if device is None or entry[2] is device]


@nvml(
    "QI",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
)
def processes(context: Context, handle: int, room: int) -> Outs:
    return counted(
        (
            struct.pack(
                "=I4xQII",
                pid,
                _PROCESS_MEMORY,
                _NO_INSTANCE if instance is None else instance.id,
                _NO_INSTANCE if device is None else device.id,
            )
            for pid, instance, device in _processes(context, handle)
        ),
        room,
    )


@nvml("QI", "nvmlDeviceGetComputeRunningProcesses")
def processes_v1(context: Context, handle: int, room: int) -> Outs:
    found = _processes(context, handle)
    return counted((struct.pack("=I4xQ", pid, _PROCESS_MEMORY) for pid, _, _ in found), room)


@nvml(
    "QI",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
)
def no_processes(context: Context, handle: int, _room: int) -> Outs:
    context.any_device(handle)
    return counted((), 0)


@nvml("QQ", "nvmlDeviceGetProcessUtilization")
def process_utilization(context: Context, handle: int, _since: int) -> Outs:
    """No samples are kept; in MIG mode there are none on real boards either."""
    gpu, device = context.any_device(handle)
    raise NvmlError(Code.NOT_SUPPORTED if gpu.mig_current or device is not None else Code.NOT_FOUND)
