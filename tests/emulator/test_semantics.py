# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver refuses, forgets and decides by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from ctypes import c_uint
from typing import Any

import pynvml as n
import pytest
from emulator.conftest import Start
from emulator.errors import Code
from emulator.nvml_helpers import compute_instances, create_at, cut, fails, info, mig_devices, placements
from emulator.testing import DriverError, EmulatedDriver

Calls = tuple[Callable[[], Any], ...]


def device(index: int = 0) -> Any:
    return n.nvmlDeviceGetHandleByIndex(index)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that can hold a GPU; closing its input ends it."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        yield running


# -- mode ------------------------------------------------------------------------------------------------------------


def test_ampere_changes_its_mode_at_a_reset_and_keeps_it_over_a_reboot(start: Start) -> None:
    driver = start("a100-40")
    assert n.nvmlDeviceSetMigMode(device(), 1) == n.NVML_ERROR_RESET_REQUIRED
    assert n.nvmlDeviceGetMigMode(device()) == [0, 1]
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceCreateGpuInstance(device(), 19)
    assert n.nvmlDeviceSetMigMode(device(), 0) == 0, "taking a wish back needs no reset"
    assert n.nvmlDeviceGetMigMode(device()) == [0, 0]

    n.nvmlDeviceSetMigMode(device(), 1)
    driver.reset(0)
    assert n.nvmlDeviceGetMigMode(device()) == [1, 1]
    cut(device(), 19)
    driver.reset(0)
    assert n.nvmlDeviceGetMigMode(device()) == [1, 1]
    assert mig_devices(device()) == []
    cut(device(), 19)
    driver.reboot()
    assert n.nvmlDeviceGetMigMode(device()) == [1, 1]
    assert mig_devices(device()) == []


def test_a_pending_mode_of_ampere_comes_into_force_at_a_reboot(start: Start) -> None:
    driver = start("a30")
    n.nvmlDeviceSetMigMode(device(), 1)
    driver.reboot()
    assert n.nvmlDeviceGetMigMode(device()) == [1, 1]


def test_hopper_changes_its_mode_at_once_and_loses_it_at_a_reboot(start: Start) -> None:
    driver = start("h100-80")
    assert n.nvmlDeviceSetMigMode(device(), 1) == 0
    assert n.nvmlDeviceGetMigMode(device()) == [1, 1]
    cut(device(), 9)
    driver.reset(0)
    assert n.nvmlDeviceGetMigMode(device()) == [1, 1]
    assert mig_devices(device()) == []
    driver.reboot()
    assert n.nvmlDeviceGetMigMode(device()) == [0, 0]


def test_the_mode_stays_while_instances_exist_or_a_process_holds_the_gpu(
    start: Start, process: subprocess.Popen[bytes]
) -> None:
    driver = start("h100-80=1g.10gb,a100-40")
    with fails("IN_USE"):
        n.nvmlDeviceSetMigMode(device(0), 0)
    driver.busy(1, process.pid)
    with fails("IN_USE"):
        n.nvmlDeviceSetMigMode(device(1), 1)
    assert n.nvmlDeviceGetMigMode(device(1)) == [0, 0]
    with pytest.raises(DriverError) as caught:
        driver.reset(1)
    assert caught.value.code is Code.IN_USE
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceSetMigMode(device(0), 2)


def test_a_gpu_without_mig_says_so(start: Start) -> None:
    start("t4")
    calls: Calls = (
        lambda: n.nvmlDeviceSetMigMode(device(), 1),
        lambda: n.nvmlDeviceGetGpuInstanceProfileInfo(device(), 0),
        lambda: n.nvmlDeviceGetMigDeviceHandleByIndex(device(), 0),
        lambda: n.nvmlDeviceGetGpuInstanceRemainingCapacity(device(), 19),
    )
    for call in calls:
        with fails("NOT_SUPPORTED"):
            call()


def test_old_drivers_tell_no_profiles_while_mig_is_off(start: Start) -> None:
    start("h100-80,h100-80=", driver_version="535.161.08")
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetGpuInstanceProfileInfo(device(0), 0)
    with fails("NOT_SUPPORTED"):
        placements(device(0), 19)
    assert n.nvmlDeviceGetGpuInstanceProfileInfo(device(1), 0).id == 19
    assert len(placements(device(1), 19)) == 7


# -- instances -------------------------------------------------------------------------------------------------------


def test_without_placement_the_order_decides_whether_all_fit(start: Start) -> None:
    start("2xa100-40=")
    with fails("INSUFFICIENT_RESOURCES"):
        cut(device(0), 19, 19, 14, 9)
    cut(device(1), 9, 14, 19, 19)
    assert len(mig_devices(device(1))) == 4


def test_a_placement_is_one_of_the_board_and_free(start: Start) -> None:
    start("h100-80=")
    create_at(device(), 9, 0, 4)
    for start_, size in ((2, 4), (4, 2), (8, 4)):
        with fails("INVALID_ARGUMENT"):
            create_at(device(), 9, start_, size)
    with fails("INSUFFICIENT_RESOURCES"):
        create_at(device(), 9, 0, 4)
    with fails("INSUFFICIENT_RESOURCES"):
        create_at(device(), 19, 3, 1)
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceCreateGpuInstance(device(), 99)
    create_at(device(), 9, 4, 4)
    with fails("INSUFFICIENT_RESOURCES"):
        n.nvmlDeviceCreateGpuInstance(device(), 19)


def test_an_instance_goes_only_when_nothing_uses_it(start: Start, process: subprocess.Popen[bytes]) -> None:
    driver = start("h100-80=3g.40gb")
    number = n.nvmlDeviceGetGpuInstanceId(mig_devices(device())[0])
    instance = n.nvmlDeviceGetGpuInstanceById(device(), number)
    compute = compute_instances(instance, 2)[0]
    with fails("IN_USE"):
        n.nvmlGpuInstanceDestroy(instance)
    driver.busy(f"0/{number}/0", process.pid)
    with fails("IN_USE"):
        n.nvmlComputeInstanceDestroy(compute)
    driver.idle(f"0/{number}/0")
    driver.busy(f"0/{number}", process.pid)
    with fails("IN_USE"):
        n.nvmlComputeInstanceDestroy(compute)
    driver.idle(f"0/{number}")
    n.nvmlComputeInstanceDestroy(compute)
    driver.busy(f"0/{number}", process.pid)
    with fails("IN_USE"):
        n.nvmlGpuInstanceDestroy(instance)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    n.nvmlGpuInstanceDestroy(instance)  # the process has ended, which releases what it held


def test_processes_are_listed_with_their_instances(start: Start, process: subprocess.Popen[bytes]) -> None:
    driver = start("h100-80,h100-80=3g.40gb:1g.10gb")
    assert n.nvmlDeviceGetComputeRunningProcesses(device(0)) == []
    driver.busy(0, process.pid)
    driver.busy(0, os.getpid())
    found = n.nvmlDeviceGetComputeRunningProcesses(device(0))
    assert {entry.pid for entry in found} == {process.pid, os.getpid()}
    assert {entry.gpuInstanceId for entry in found} == {0xFFFFFFFF}
    assert n.nvmlDeviceGetPowerUsage(device(0)) == 490_000

    first, second = mig_devices(device(1))
    number = n.nvmlDeviceGetGpuInstanceId(second)
    driver.busy(f"1/{number}/0", process.pid)
    for handle in (device(1), second):
        (entry,) = n.nvmlDeviceGetComputeRunningProcesses_v2(handle)
        assert (entry.pid, entry.gpuInstanceId, entry.computeInstanceId) == (process.pid, number, 0)
    assert n.nvmlDeviceGetComputeRunningProcesses(first) == []
    assert n.nvmlDeviceGetGraphicsRunningProcesses(device(1)) == []
    assert n.nvmlSystemGetProcessName(process.pid) == "cat"
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetUtilizationRates(device(1))
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetProcessUtilization(second, 0)

    room = (n.c_nvmlProcessInfo_v2_t * 1)()
    count = c_uint(1)
    function = n._nvmlGetFunctionPointer("nvmlDeviceGetComputeRunningProcesses_v3")
    assert function(device(0), n.byref(count), room) == n.NVML_ERROR_INSUFFICIENT_SIZE
    assert count.value == 2


def test_busy_needs_something_that_exists(start: Start) -> None:
    driver = start("h100-80=1g.10gb")
    with pytest.raises(DriverError, match="no process 999999999"):
        driver.busy(0, 999_999_999)
    for target in ("0/1", "0/x", "0/7/5", "0/7/0/0"):
        with pytest.raises(DriverError, match=r"expected GPU, GPU/GI or GPU/GI/CI, found .* there are 0/7/0"):
            driver.busy(target, os.getpid())
    with pytest.raises(DriverError, match="expected a GPU by index, PCI address or UUID, found '5'"):
        driver.busy(5, os.getpid())


def test_ids_form_a_tree_that_placements_do_not_tell(start: Start) -> None:
    start("2xh100-80=")
    seen = []
    for index in range(2):
        made = [info(create_at(device(index), profile, *place)) for profile, place in ((5, (0, 4)), (14, (4, 2)))]
        made.append(info(create_at(device(index), 19, 6, 1)))
        assert made[0][0] in (1, 2)
        assert made[1][0] in range(3, 7)
        assert made[2][0] in range(7, 15)
        seen.append([entry[0] for entry in made])
    assert all(first != second for first, second in zip(*seen, strict=True))
    one = n.nvmlDeviceGetGpuInstanceById(device(0), seen[0][2])
    n.nvmlGpuInstanceDestroy(one)
    assert info(create_at(device(0), 19, 6, 1))[0] != seen[0][2], "the same place gets another id the next time"


def test_the_whole_gpu_is_instance_0(start: Start) -> None:
    start("a30=4g.24gb,rtxpro6000=4g.96gb+gfx,h100-80=7g.80gb")
    assert [n.nvmlDeviceGetGpuInstanceId(mig_devices(device(index))[0]) for index in range(3)] == [0, 0, 0]


def uuids() -> list[str]:
    return [n.nvmlDeviceGetUUID(mig) for index in range(2) for mig in mig_devices(device(index))]


def test_uuids_are_new_at_each_creation_and_the_same_in_each_run(start: Start) -> None:
    driver = start("2xh100-80=1g.10gb*2")
    first = uuids()
    whole = n.nvmlDeviceGetUUID(device())
    assert len(set(first)) == 4
    driver.reboot()
    assert n.nvmlDeviceGetUUID(device()) == whole
    for index in range(2):
        n.nvmlDeviceSetMigMode(device(index), 1)
        cut(device(index), 19, 19)
    assert set(uuids()).isdisjoint(first)
    with EmulatedDriver("2xh100-80=1g.10gb*2"):
        n.nvmlInit()
        assert uuids() == first
        n.nvmlShutdown()
    with EmulatedDriver("2xh100-80=1g.10gb*2", seed=7):
        n.nvmlInit()
        assert set(uuids()).isdisjoint(first)
        assert n.nvmlDeviceGetUUID(device()) != whole
        n.nvmlShutdown()


# -- handles, rights -------------------------------------------------------------------------------------------------


def test_handles_of_what_is_gone_are_invalid(start: Start) -> None:
    driver = start("h100-80=3g.40gb")
    whole = device()
    mig = mig_devices(whole)[0]
    instance = n.nvmlDeviceGetGpuInstanceById(whole, n.nvmlDeviceGetGpuInstanceId(mig))
    compute = compute_instances(instance, 2)[0]
    n.nvmlComputeInstanceDestroy(compute)
    calls: Calls = (
        lambda: n.nvmlDeviceGetUUID(mig),
        lambda: n.nvmlComputeInstanceGetInfo(compute),
        lambda: n.nvmlComputeInstanceDestroy(compute),
    )
    for call in calls:
        with fails("INVALID_ARGUMENT"):
            call()
    n.nvmlGpuInstanceDestroy(instance)
    later: Calls = (lambda: n.nvmlGpuInstanceGetInfo(instance), lambda: n.nvmlGpuInstanceDestroy(instance))
    for call in later:
        with fails("INVALID_ARGUMENT"):
            call()
    driver.reboot()
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetName(whole)


def test_handles_of_one_kind_are_none_of_another(start: Start) -> None:
    start("h100-80=3g.40gb")
    mig = mig_devices(device())[0]
    instance = n.nvmlDeviceGetGpuInstanceById(device(), n.nvmlDeviceGetGpuInstanceId(mig))
    calls: Calls = (
        lambda: n.nvmlDeviceGetMinorNumber(mig),
        lambda: n.nvmlDeviceGetMigMode(mig),
        lambda: n.nvmlDeviceCreateGpuInstance(mig, 19),
        lambda: n.nvmlDeviceGetGpuInstanceId(device()),
        lambda: n.nvmlDeviceGetAttributes(device()),
        lambda: n.nvmlDeviceGetName(instance),
        lambda: n.nvmlGpuInstanceGetInfo(device()),
        lambda: n.nvmlComputeInstanceGetInfo(instance),
    )
    for call in calls:
        with fails("INVALID_ARGUMENT"):
            call()


def test_managing_needs_root_and_reading_does_not(start: Start) -> None:
    start("h100-80=3g.40gb,a100-40", privileged_uid=os.getuid() + 12345)
    mig = mig_devices(device())[0]
    instance = n.nvmlDeviceGetGpuInstanceById(device(), n.nvmlDeviceGetGpuInstanceId(mig))
    compute = compute_instances(instance, 2)[0]
    calls: Calls = (
        lambda: n.nvmlDeviceSetMigMode(device(1), 1),
        lambda: n.nvmlDeviceCreateGpuInstance(device(), 19),
        lambda: create_at(device(), 19, 0, 1),
        lambda: n.nvmlGpuInstanceCreateComputeInstance(instance, 0),
        lambda: n.nvmlComputeInstanceDestroy(compute),
        lambda: n.nvmlGpuInstanceDestroy(instance),
        lambda: n.nvmlDeviceResetApplicationsClocks(device()),
    )
    for call in calls:
        with fails("NO_PERMISSION"):
            call()
    assert n.nvmlDeviceGetUUID(mig).startswith("MIG-")


def test_minors_can_differ_from_indices(start: Start) -> None:
    driver = start("3xh100-80", shuffle_minors=True)
    assert [n.nvmlDeviceGetMinorNumber(device(index)) for index in range(3)] == [1, 2, 0]
    assert [gpu["minor"] for gpu in driver.show()["gpus"]] == [1, 2, 0]


def test_a_single_gpu_can_have_minor_1(start: Start) -> None:
    start("h100-80", shuffle_minors=True)
    assert n.nvmlDeviceGetMinorNumber(device()) == 1
