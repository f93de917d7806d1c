# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can go wrong on demand."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pynvml as n
import pytest
from emulator.conftest import Python, Start
from emulator.errors import Code, parse_code
from emulator.nvml_helpers import cut, fails, mig_devices
from emulator.testing import DriverError, EmulatedDriver

Calls = tuple[Callable[[], Any], ...]


def device(index: int = 0) -> Any:
    return n.nvmlDeviceGetHandleByIndex(index)


def test_a_call_fails_as_often_as_asked(start: Start) -> None:
    driver = start("h100-80")
    driver.fault("nvmlDeviceGetName", error="UNKNOWN", times=2)
    for _ in range(2):
        with fails("UNKNOWN"):
            n.nvmlDeviceGetName(device())
    assert n.nvmlDeviceGetName(device()) == "NVIDIA H100 80GB HBM3"
    assert driver.show()["faults"] == []


def test_a_failed_call_has_no_effect(start: Start) -> None:
    driver = start("h100-80=")
    driver.fault("nvmlDeviceCreateGpuInstance*", error="NVML_ERROR_INSUFFICIENT_RESOURCES", skip=1, times=1)
    with fails("INSUFFICIENT_RESOURCES"):
        cut(device(), 19, 19)
    assert len(mig_devices(device())) == 1
    cut(device(), 19)


def test_a_fault_lasts_until_cleared(start: Start) -> None:
    driver = start("h100-80")
    driver.fault("nvmlDeviceGetUUID", error=10)
    for _ in range(3):
        with fails("TIMEOUT"):
            n.nvmlDeviceGetUUID(device())
    driver.clear_faults()
    assert n.nvmlDeviceGetUUID(device())


def test_a_fault_of_one_gpu_leaves_the_others_alone(start: Start) -> None:
    driver = start("3xh100-80=1g.10gb")
    good, bad = device(0), device(1)
    instance = n.nvmlDeviceGetGpuInstanceById(bad, n.nvmlDeviceGetGpuInstanceId(mig_devices(bad)[0]))
    compute = n.nvmlGpuInstanceGetComputeInstanceById(instance, 0)
    mig = mig_devices(bad)[0]
    names = [n.nvmlDeviceGetUUID(bad).encode(), n.nvmlDeviceGetUUID(mig).encode()]
    address = n.nvmlDeviceGetPciInfo(bad).busId.encode()
    driver.fault("*", error="GPU_IS_LOST", gpu=1)
    calls: Calls = (
        lambda: device(1),
        lambda: n.nvmlDeviceGetName(bad),
        lambda: n.nvmlDeviceGetName(mig),
        lambda: n.nvmlGpuInstanceGetInfo(instance),
        lambda: n.nvmlComputeInstanceGetInfo(compute),
        lambda: n.nvmlDeviceGetHandleByPciBusId(address),
        *(lambda name=name: n.nvmlDeviceGetHandleByUUID(name) for name in names),
    )
    for call in calls:
        with fails("GPU_IS_LOST"):
            call()
    assert n.nvmlDeviceGetName(good)
    assert n.nvmlDeviceGetCount() == 3
    with fails("NOT_FOUND"):
        n.nvmlDeviceGetHandleByUUID(b"GPU-none")


def test_a_lost_gpu_is_still_counted_and_comes_back_at_a_reboot(start: Start) -> None:
    driver = start("2xa100-40=1g.5gb")
    lost = device(1)
    mig = mig_devices(lost)[0]
    driver.lose(1)
    calls: Calls = (
        lambda: device(1),
        lambda: n.nvmlDeviceGetMigMode(lost),
        lambda: n.nvmlDeviceGetName(mig),
    )
    for call in calls:
        with fails("GPU_IS_LOST"):
            call()
    assert n.nvmlDeviceGetCount() == 2
    assert n.nvmlDeviceGetName(device(0))
    with pytest.raises(DriverError) as caught:
        driver.reset(1)
    assert caught.value.code is Code.GPU_IS_LOST
    driver.reboot()
    assert n.nvmlDeviceGetMigMode(device(1)) == [1, 1]


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_call_kills_its_caller(start: Start, python: Python, when: str, left: int) -> None:
    driver = start("h100-80=")
    driver.fault("nvmlDeviceCreateGpuInstance", kill=when)
    script = "n.nvmlDeviceCreateGpuInstance(n.nvmlDeviceGetHandleByIndex(0), 19)"
    assert python(driver, script).returncode == -signal.SIGKILL
    assert len(driver.show()["gpus"][0]["gpu_instances"]) == left
    assert python(driver, script).returncode == 0, "a kill strikes once unless told otherwise"


def test_a_call_hangs_until_the_faults_are_cleared(start: Start) -> None:
    driver = start("h100-80")
    driver.fault("nvmlDeviceGetCount_v2", hang=True)
    got: list[int] = []
    caller = threading.Thread(target=lambda: got.append(n.nvmlDeviceGetCount()))
    caller.start()
    caller.join(0.3)
    assert caller.is_alive()
    assert n.nvmlDeviceGetName(device()), "other threads are served"
    driver.clear_faults()
    caller.join(10)
    assert got == [1]


def test_a_caller_that_is_killed_while_it_hangs_harms_nobody(start: Start) -> None:
    driver = start("h100-80")
    driver.fault("nvmlDeviceGetCount_v2", hang=True, times=1)
    code = "import pynvml as n; n.nvmlInit(); print('in', flush=True); n.nvmlDeviceGetCount()"
    with subprocess.Popen([sys.executable, "-c", code], env=driver.environment(), stdout=subprocess.PIPE) as hung:
        assert hung.stdout is not None
        assert hung.stdout.readline() == b"in\n"
        hung.kill()
    driver.clear_faults()
    assert n.nvmlDeviceGetCount() == 1


def test_no_driver_without_a_gpu(start: Start) -> None:
    start("none", init=False)
    with fails("DRIVER_NOT_LOADED"):
        n.nvmlInit()


@pytest.mark.parametrize("name", ["nouveau", "vfio-pci", "none"])
def test_no_driver_when_another_one_has_the_gpus(start: Start, name: str) -> None:
    start("h100-80", kernel_driver=name, init=False)
    with fails("DRIVER_NOT_LOADED"):
        n.nvmlInit()


def test_initialisation_can_fail_like_any_call(start: Start) -> None:
    driver = start("h100-80", init=False)
    driver.fault("nvmlInit*", error="LIB_RM_VERSION_MISMATCH", times=1)
    with fails("LIB_RM_VERSION_MISMATCH"):
        n.nvmlInit()
    n.nvmlInit()
    n.nvmlShutdown()
    with fails("UNINITIALIZED"):
        n.nvmlDeviceGetCount()
    with fails("UNINITIALIZED"):
        n.nvmlShutdown()


def test_a_daemon_that_dies_is_a_driver_that_is_gone(python: Python) -> None:
    with EmulatedDriver("h100-80") as driver:
        script = """
import os, signal
assert n.nvmlDeviceGetCount() == 1
os.kill(%d, signal.SIGTERM)
codes = set()
while n.NVML_ERROR_DRIVER_NOT_LOADED not in codes:
    try:
        n.nvmlDeviceGetCount()
    except n.NVMLError as error:
        codes.add(error.value)
n.nvmlShutdown()
assert codes <= {n.NVML_ERROR_DRIVER_NOT_LOADED, n.NVML_ERROR_UNKNOWN}, codes
"""
        done = python(driver, script % driver.process.pid)
        assert done.returncode == 0, done.stderr
        assert not driver.socket.exists()


def test_the_old_library_lacks_what_younger_drivers_added(python: Python) -> None:
    with EmulatedDriver("h100-80=3g.40gb", old_library=True) as driver:
        script = """
device = n.nvmlDeviceGetHandleByIndex(0)
assert n.nvmlDeviceGetMigMode(device) == [1, 1]
assert n.nvmlDeviceGetGpuInstanceProfileInfo(device, 2, version=1).id == 9
instance = n.nvmlDeviceCreateGpuInstance(device, 9)
for call in (
    lambda: n.nvmlDeviceGetGpuInstanceProfileInfo(device, 2),
    lambda: n.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, n.byref(n.c_nvmlGpuInstancePlacement_t(0, 4))),
    lambda: n.nvmlDeviceGetComputeRunningProcesses_v3(device),
    lambda: n.nvmlDeviceGetMemoryInfo(device, version=n.nvmlMemory_v2),
):
    try:
        call()
    except n.NVMLError_FunctionNotFound:
        continue
    raise SystemExit("a function is there that should not be")
"""
        done = python(driver, script)
        assert done.returncode == 0, done.stderr


def test_error_codes_are_read_in_all_their_forms() -> None:
    assert parse_code("IN_USE") is parse_code("nvml_error_in_use") is parse_code("19") is parse_code(19) is Code.IN_USE
    for bad in ("", "NOPE", "31", "-1"):
        with pytest.raises(ValueError, match="expected an NVML error code or name"):
            parse_code(bad)
    with pytest.raises(ValueError, match="SUCCESS"):
        parse_code(0)


def test_codes_are_those_of_pynvml(start: Start) -> None:
    start("h100-80")
    for code in Code:
        name = "NVML_SUCCESS" if code is Code.SUCCESS else f"NVML_ERROR_{code.name}"
        assert getattr(n, name) == code
        assert (n.nvmlErrorString(code) == "Unknown Error") is (code is Code.UNKNOWN)


def test_a_bad_fault_is_refused(start: Start) -> None:
    driver = start("h100-80")
    with pytest.raises(DriverError, match="expected an NVML error code or name, found 'X'"):
        driver.fault("nvmlInit", error="X")
    with pytest.raises(DriverError, match="times >= 1"):
        driver.fault("nvmlInit", error=1, times=0)
    with pytest.raises(DriverError, match="found 'explode'"):
        driver.control("fault", function="nvmlInit", kind="explode")
    with pytest.raises(DriverError, match="found 'dance'"):
        driver.control("dance")
    with pytest.raises(ValueError, match="exactly one"):
        driver.fault("nvmlInit")
