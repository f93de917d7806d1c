# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading GPUs and managing MIG through the real pynvml."""

from __future__ import annotations

from collections import Counter
from ctypes import byref, c_uint, c_ulonglong, sizeof

import pynvml as n
import pytest
from emulator.conftest import Start
from emulator.nvml_helpers import (
    compute_instances,
    compute_placements,
    cut,
    fails,
    info,
    mig_devices,
)


def test_a_device_is_found_by_all_its_names(start: Start) -> None:
    start("2xh100-80=1g.10gb")
    first, second = (n.nvmlDeviceGetHandleByIndex(index) for index in range(2))
    uuid = n.nvmlDeviceGetUUID(second)
    assert uuid.startswith("GPU-")
    assert uuid != n.nvmlDeviceGetUUID(first)
    mig = n.nvmlDeviceGetUUID(mig_devices(second)[0])
    for found in (
        n.nvmlDeviceGetHandleByUUID(uuid.encode()),
        n.nvmlDeviceGetHandleByPciBusId(n.nvmlDeviceGetPciInfo(second).busId.encode()),
        n.nvmlDeviceGetHandleByPciBusId(b"0000:43:00.0"),
        n.nvmlDeviceGetHandleBySerial(n.nvmlDeviceGetSerial(second).encode()),
        n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(n.nvmlDeviceGetHandleByUUID(mig.encode())),
    ):
        assert n.nvmlDeviceGetIndex(found) == 1
    for name in (b"GPU-0", b""):
        with fails("NOT_FOUND"):
            n.nvmlDeviceGetHandleByUUID(name)
    with fails("NOT_FOUND"):
        n.nvmlDeviceGetHandleByPciBusId(b"0000:ff:00.0")
    for bad in (b"nonsense", b"0000:zz:00.0"):
        with fails("INVALID_ARGUMENT"):
            n.nvmlDeviceGetHandleByPciBusId(bad)
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetHandleByIndex(2)
    with fails("NOT_FOUND"):
        n.nvmlDeviceGetHandleBySerial(b"0")


def test_versions_clocks_and_power_are_told(start: Start) -> None:
    start("h100-80", driver_version="570.133.20")
    device = n.nvmlDeviceGetHandleByIndex(0)
    assert n.nvmlSystemGetDriverVersion() == "570.133.20"
    assert n.nvmlSystemGetNVMLVersion() == "12.570.133.20"
    assert n.nvmlSystemGetCudaDriverVersion() == 12080
    assert n.nvmlDeviceGetSupportedMemoryClocks(device) == [2619]
    assert n.nvmlDeviceGetSupportedGraphicsClocks(device, 2619)[:2] == [1980, 1965]
    assert n.nvmlDeviceGetMaxClockInfo(device, n.NVML_CLOCK_MEM) == 2619
    assert n.nvmlDeviceGetPowerManagementLimit(device) == 700_000
    assert n.nvmlDeviceGetPowerUsage(device) == 70_000
    assert n.nvmlDeviceGetTemperature(device, 0) == 34
    assert n.nvmlDeviceGetEccMode(device) == [1, 1]
    assert n.nvmlDeviceGetUtilizationRates(device).gpu == 0
    assert n.nvmlDeviceGetComputeMode(device) == 0
    assert n.nvmlDeviceGetPersistenceMode(device) == 1
    assert n.nvmlDeviceGetArchitecture(device) == 9
    assert n.nvmlDeviceGetBrand(device) == 14
    assert n.nvmlDeviceGetVbiosVersion(device)
    assert n.nvmlDeviceGetTotalEnergyConsumption(device) == 0
    assert n.nvmlDeviceGetBAR1MemoryInfo(device).bar1Total == 128 << 30
    with fails("NOT_FOUND"):
        n.nvmlDeviceGetSupportedGraphicsClocks(device, 1)
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetClockInfo(device, 9)
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceSetApplicationsClocks(device, 2619, 1980)
    n.nvmlDeviceResetApplicationsClocks(device)
    with fails("NOT_FOUND"):
        n.nvmlDeviceGetProcessUtilization(device, 0)


def test_a_string_buffer_that_is_too_small_is_refused(start: Start) -> None:
    start("h100-80")
    device = n.nvmlDeviceGetHandleByIndex(0)
    buffer = n.create_string_buffer(5)
    function = n._nvmlGetFunctionPointer("nvmlDeviceGetName")
    assert function(device, buffer, c_uint(5)) == n.NVML_ERROR_INSUFFICIENT_SIZE
    assert function(device, None, c_uint(5)) == n.NVML_ERROR_INVALID_ARGUMENT


def test_place_in_the_machine(start: Start) -> None:
    start("4xa30,4xa30", numa=["0-15,64-79", "16-31,80-95"])
    for index, mask, node in ((0, 0xFFFF, 0), (7, 0xFFFF0000, 1)):
        device = n.nvmlDeviceGetHandleByIndex(index)
        assert list(n.nvmlDeviceGetCpuAffinity(device, 2)) == [mask, mask]
        assert list(n.nvmlDeviceGetMemoryAffinity(device, 1, 0)) == [1 << node]
        assert n.nvmlDeviceGetNumaNodeId(device) == node


def nvlink_peers(index: int) -> Counter[str]:
    device = n.nvmlDeviceGetHandleByIndex(index)
    peers: Counter[str] = Counter()
    for link in range(n.NVML_NVLINK_MAX_LINKS):
        try:
            if n.nvmlDeviceGetNvLinkState(device, link):
                kind = n.nvmlDeviceGetNvLinkRemoteDeviceType(device, link)
                peers[f"{kind}:{n.nvmlDeviceGetNvLinkRemotePciInfo(device, link).busId}"] += 1
        except n.NVMLError_InvalidArgument:
            break
    return peers


def test_nvlinks_go_to_the_peers_or_to_switches_and_are_down_under_mig(start: Start) -> None:
    start("3xh100-80,a30")
    assert nvlink_peers(0) == {"0:00000000:43:00.0": 9, "0:00000000:52:00.0": 9}
    assert nvlink_peers(3) == {}
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetNvLinkRemoteDeviceType(n.nvmlDeviceGetHandleByIndex(3), 0)
    n.nvmlDeviceSetMigMode(n.nvmlDeviceGetHandleByIndex(2), 1)
    assert nvlink_peers(0) == {"0:00000000:43:00.0": 9}
    assert nvlink_peers(2) == {}


@pytest.mark.parametrize(("key", "switches"), [("h100-80", 4), ("a100-40", 6), ("b200", 0)])
def test_eight_gpus_are_switched(start: Start, key: str, switches: int) -> None:
    driver = start(f"8x{key}")
    peers = nvlink_peers(5)
    assert {peer[0] for peer in peers} == {"2"}
    assert len(driver.show()["nvswitches"]) == switches
    assert len(peers) == max(switches, 1)


def test_a_board_without_nvlink_says_so(start: Start) -> None:
    start("t4")
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetNvLinkState(n.nvmlDeviceGetHandleByIndex(0), 0)


class ProfileInfoV3(n.Structure):  # type: ignore[misc]  # pynvml is untyped
    """nvmlGpuInstanceProfileInfo_v3_t, which pynvml does not know."""

    _fields_ = (
        *((name, c_uint) for name in ("version", "id", "slices", "instances", "sm", "ce", "dec", "enc", "jpeg", "ofa")),
        ("memory", c_ulonglong),
        ("name", n.c_char * 96),
        ("capabilities", c_uint),
    )


def test_versioned_structures(start: Start) -> None:
    start("h100-80")
    device = n.nvmlDeviceGetHandleByIndex(0)
    found = ProfileInfoV3(version=3 << 24 | sizeof(ProfileInfoV3))
    function = n._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstanceProfileInfoV")
    assert function(device, 9, byref(found)) == 0
    assert (found.id, found.slices, found.instances, found.sm, found.ofa) == (15, 1, 4, 26, 0)
    assert (found.memory, found.name) == (20091, b"MIG 1g.20gb")
    for version in (1 << 24 | sizeof(found), 3 << 24 | 8, 0):
        found.version = version
        assert function(device, 9, byref(found)) == n.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    extended = n.nvmlPciInfoExt_v1_t(version=1 << 24 | sizeof(n.nvmlPciInfoExt_v1_t))
    n.nvmlDeviceGetPciInfoExt(device, byref(extended))
    assert (extended.baseClass, extended.subClass, extended.busId) == (3, 2, "00000000:1B:00.0")


def test_a_gpu_instance_is_shared_by_compute_instances(start: Start) -> None:
    start("h100-80=")
    device = n.nvmlDeviceGetHandleByIndex(0)
    instance = n.nvmlDeviceCreateGpuInstance(device, 9)
    assert compute_placements(instance, 0) == [(0, 1), (1, 1), (2, 1)]
    found = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, 0, 0)
    assert (found.id, found.sliceCount, found.instanceCount, found.multiprocessorCount) == (0, 1, 3, 20)
    assert found.name == "MIG 1c.3g.40gb"
    assert n.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, 2, 0, version=1).sliceCount == 3
    with fails("NOT_SUPPORTED"):
        n.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, 3, 0)
    with fails("INVALID_ARGUMENT"):
        n.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, 8, 0)
    with fails("INVALID_ARGUMENT"):
        n.nvmlGpuInstanceCreateComputeInstance(instance, 4)

    place = n.c_nvmlComputeInstancePlacement_t(1, 1)
    middle = n.nvmlGpuInstanceCreateComputeInstanceWithPlacement(instance, 0, byref(place))
    with fails("INSUFFICIENT_RESOURCES"):
        n.nvmlGpuInstanceCreateComputeInstanceWithPlacement(instance, 0, byref(place))
    with fails("INVALID_ARGUMENT"):
        place.start = 3
        n.nvmlGpuInstanceCreateComputeInstanceWithPlacement(instance, 0, byref(place))
    assert n.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0) == 2
    assert n.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 1) == 0
    other = n.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    details = n.nvmlComputeInstanceGetInfo(middle)
    assert (details.id, details.profileId, details.placement.start, details.placement.size) == (0, 0, 1, 1)
    assert n.nvmlComputeInstanceGetInfo(other).placement.start == 0
    names = [n.nvmlDeviceGetName(mig) for mig in mig_devices(device)]
    assert names == ["NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb"] * 2
    assert n.nvmlComputeInstanceGetInfo(n.nvmlGpuInstanceGetComputeInstanceById(instance, 1)).id == 1
    with fails("NOT_FOUND"):
        n.nvmlGpuInstanceGetComputeInstanceById(instance, 5)
    assert len(compute_instances(instance, 0)) == 2
    n.nvmlComputeInstanceDestroy(middle)
    assert [n.nvmlDeviceGetIndex(mig) for mig in mig_devices(device)] == [0]
    assert n.nvmlDeviceGetComputeInstanceId(mig_devices(device)[0]) == 1


def test_indices_of_mig_devices_have_no_gap(start: Start) -> None:
    start("h100-80=")
    device = n.nvmlDeviceGetHandleByIndex(0)
    made = cut(device, 9, 14, 19, 19)
    before = [n.nvmlDeviceGetGpuInstanceId(mig) for mig in mig_devices(device)]
    assert before == sorted(before)
    gone = info(made[1])[0]
    n.nvmlComputeInstanceDestroy(compute_instances(made[1], 1)[0])
    n.nvmlGpuInstanceDestroy(made[1])
    assert [n.nvmlDeviceGetGpuInstanceId(mig) for mig in mig_devices(device)] == [x for x in before if x != gone]
    with fails("NOT_FOUND"):
        n.nvmlDeviceGetMigDeviceHandleByIndex(device, 3)
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetMigDeviceHandleByIndex(device, 7)
