# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory: what is in use, by whom, and what is broken."""

from __future__ import annotations

import os
from typing import Any

import pynvml as n
import pytest
from emulator.conftest import Start
from emulator.nvml_helpers import fails, mig_devices
from emulator.testing import DriverError

_UNCORRECTED, _VOLATILE = 1, 0


def used(device: Any) -> int:
    return int(n.nvmlDeviceGetMemoryInfo(device).used) >> 20


def test_errors_are_counted_until_a_reset_and_a_failed_row_stays(start: Start) -> None:
    driver = start("2xh100-80")
    sick, well = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(1)
    driver.memory_errors(0, uncorrected=3, pending=True, failed=True)
    assert n.nvmlDeviceGetTotalEccErrors(sick, _UNCORRECTED, _VOLATILE) == 3
    assert n.nvmlDeviceGetTotalEccErrors(sick, 0, 0) == 0
    assert n.nvmlDeviceGetRemappedRows(sick) == (0, 0, 1, 1)
    assert n.nvmlDeviceGetRemappedRows(well) == (0, 0, 0, 0)
    driver.reset(0)
    assert n.nvmlDeviceGetTotalEccErrors(sick, _UNCORRECTED, _VOLATILE) == 0
    assert n.nvmlDeviceGetRemappedRows(sick) == (0, 1, 0, 1)
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetTotalEccErrors(sick, 2, 0)


def test_old_boards_retire_pages_and_new_ones_remap_rows(start: Start) -> None:
    driver = start("v100,a100-40=1g.5gb")
    old, new = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(1)
    driver.memory_errors(0, pending=True)
    assert n.nvmlDeviceGetRetiredPagesPendingStatus(old) == 1
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetRemappedRows(old)
    with fails("NOT_SUPPORTED"):
        n.nvmlDeviceGetRetiredPagesPendingStatus(new)
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetTotalEccErrors(mig_devices(new)[0], _UNCORRECTED, _VOLATILE)


def test_memory_in_use_is_that_of_processes_and_of_leaks(start: Start) -> None:
    driver = start("h100-80,h100-80=1g.10gb*2")
    whole, cut = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(1)
    first, second = mig_devices(cut)
    idle = used(whole)
    instance = n.nvmlDeviceGetGpuInstanceId(first)
    driver.busy(0, os.getpid())
    driver.busy(f"1/{instance}/0", os.getpid())
    assert (used(whole), used(first), used(second)) == (idle + 256, idle + 256, idle)
    driver.idle(0)
    driver.idle(f"1/{instance}/0")
    driver.leak(0, 2000)
    driver.leak(f"1/{instance}", 3000)
    assert (used(whole), used(first), used(second), used(cut)) == (idle + 2000, idle + 3000, idle, idle + 3000)
    driver.leak(0, 10**6)
    assert used(whole) == n.nvmlDeviceGetMemoryInfo(whole).total >> 20
    driver.reset(0)
    assert used(whole) == idle


def test_leaks_name_what_has_memory(start: Start) -> None:
    driver = start("h100-80=1g.10gb", init=False)
    device = driver.show()["gpus"][0]["gpu_instances"][0]["id"]
    for target, words in (("0", "the GPU is cut"), (f"0/{device}/0", "no memory of its own")):
        with pytest.raises(DriverError, match=words):
            driver.leak(target, 1)
    with pytest.raises(DriverError, match="expected MiB"):
        driver.leak(f"0/{device}", -1)
