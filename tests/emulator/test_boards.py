# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every board, read, filled and emptied through the real pynvml and compared with its table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pynvml as n
import pytest
from emulator.boards import GPU_INSTANCE_PROFILE_COUNT, Board, boards
from emulator.nvml_helpers import (
    compute_instances,
    create_at,
    fails,
    info,
    instances,
    mig_devices,
    placements,
    whole_compute_profile,
)
from emulator.testing import EmulatedDriver

MIG_BOARDS = [key for key, board in boards().items() if board.mig is not None]


class Zoo:
    """A machine with one GPU of every kind."""

    def __init__(self, driver: EmulatedDriver) -> None:
        self.driver = driver
        self._gpus: dict[str, dict[str, Any]] = {gpu["board"]: gpu for gpu in driver.show()["gpus"]}

    def gpu(self, key: str) -> dict[str, Any]:
        return self._gpus[key]

    def device(self, key: str) -> Any:
        return n.nvmlDeviceGetHandleByIndex(self.gpu(key)["index"])


@pytest.fixture(scope="module")
def zoo() -> Iterator[Zoo]:
    """One machine for all boards: starting a daemon for each would take longer than the tests."""
    with EmulatedDriver(",".join(boards())) as driver:
        n.nvmlInit()
        yield Zoo(driver)
        n.nvmlShutdown()


@pytest.mark.parametrize("key", boards())
def test_a_board_tells_what_the_table_says(zoo: Zoo, key: str) -> None:
    board = boards()[key]
    device = zoo.device(key)
    bus_id = f"0000{zoo.gpu(key)['pci_address'].upper()}"
    pci = n.nvmlDeviceGetPciInfo(device)
    assert n.nvmlDeviceGetName(device) == board.name
    assert pci.pciDeviceId == int(board.pci_device_id, 16) << 16 | 0x10DE
    assert pci.busId == bus_id
    assert pci.busIdLegacy == bus_id[4:]
    memory = n.nvmlDeviceGetMemoryInfo(device)
    assert memory.total == board.memory_mib << 20
    assert memory.used + memory.free == memory.total
    assert n.nvmlDeviceGetMemoryInfo(device, version=n.nvmlMemory_v2).total == memory.total
    assert n.nvmlDeviceGetCudaComputeCapability(device) == board.compute_capability
    if board.mig is None:
        with fails("NOT_SUPPORTED"):
            n.nvmlDeviceGetMigMode(device)
        assert n.nvmlDeviceGetMaxMigDeviceCount(device) == 0
    else:
        assert n.nvmlDeviceGetMigMode(device) == [0, 0]


@pytest.mark.parametrize("key", MIG_BOARDS)
def test_profiles_and_placements_of_every_index_equal_the_table(zoo: Zoo, key: str) -> None:
    mig = boards()[key].mig
    assert mig is not None
    device = zoo.device(key)
    for index in range(GPU_INSTANCE_PROFILE_COUNT):
        profile = mig.by_nvml_index(index)
        if profile is None:
            with fails("NOT_SUPPORTED"):
                n.nvmlDeviceGetGpuInstanceProfileInfo(device, index)
            continue
        found = n.nvmlDeviceGetGpuInstanceProfileInfo(device, index)
        first = n.nvmlDeviceGetGpuInstanceProfileInfo(device, index, version=1)
        assert found.name == f"MIG {profile.name}"
        for answer in (found, first):
            assert (answer.id, answer.sliceCount, answer.instanceCount) == (profile.id, profile.compute, profile.max)
            assert (answer.multiprocessorCount, answer.memorySizeMB) == (profile.sm, profile.memory_mib)
            assert answer.decoderCount == profile.engines.decoder
            assert answer.ofaCount == profile.engines.ofa
        assert placements(device, profile.id) == [(start_, profile.size) for start_ in profile.starts]
    with fails("INVALID_ARGUMENT"):
        n.nvmlDeviceGetGpuInstanceProfileInfo(device, GPU_INSTANCE_PROFILE_COUNT)
    with fails("INVALID_ARGUMENT"):
        placements(device, 99)


def fill(device: Any, board: Board) -> dict[str, tuple[int, int]]:
    """As many of each profile as fit, the big ones first, by explicit placement; UUID: (GPU instance, profile id)."""
    assert board.mig is not None
    for profile in sorted(board.mig.profiles, key=lambda entry: (-entry.size, entry.id)):
        for start_, size in placements(device, profile.id):
            try:
                instance = create_at(device, profile.id, start_, size)
            except n.NVMLError_InsufficientResources:
                continue
            assert info(instance)[1:] == (profile.id, start_, size)
            n.nvmlGpuInstanceCreateComputeInstance(instance, whole_compute_profile(instance))
            if profile.size > 1 and profile.size == board.mig.memory_slots:
                n.nvmlComputeInstanceDestroy(compute_instances(instance, whole_compute_profile(instance))[0])
                n.nvmlGpuInstanceDestroy(instance)
    return {
        n.nvmlDeviceGetUUID(mig): (
            n.nvmlDeviceGetGpuInstanceId(mig),
            info(n.nvmlDeviceGetGpuInstanceById(device, n.nvmlDeviceGetGpuInstanceId(mig)))[1],
        )
        for mig in mig_devices(device)
    }


@pytest.mark.parametrize("key", MIG_BOARDS)
def test_a_gpu_is_filled_read_and_emptied(zoo: Zoo, key: str) -> None:
    board = boards()[key]
    assert board.mig is not None
    device = zoo.device(key)
    n.nvmlDeviceSetMigMode(device, 1)
    zoo.driver.reset(zoo.gpu(key)["index"])
    assert n.nvmlDeviceGetMigMode(device) == [1, 1]
    assert n.nvmlDeviceGetMaxMigDeviceCount(device) == board.mig.max_devices
    made = fill(device, board)
    assert made
    assert all(n.nvmlDeviceGetGpuInstanceRemainingCapacity(device, profile.id) == 0 for profile in board.mig.profiles)
    for index, mig in enumerate(mig_devices(device)):
        number, profile_id = made[n.nvmlDeviceGetUUID(mig)]
        profile = board.mig.by_id(profile_id)
        assert profile is not None
        assert n.nvmlDeviceIsMigDeviceHandle(mig)
        assert n.nvmlDeviceGetIndex(mig) == index
        assert n.nvmlDeviceGetName(mig) == f"{board.name} MIG {profile.name}"
        assert n.nvmlDeviceGetComputeInstanceId(mig) == 0
        assert n.nvmlDeviceGetMemoryInfo(mig).total == profile.memory_mib << 20
        attributes = n.nvmlDeviceGetAttributes(mig)
        assert (attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount) == (profile.compute,) * 2
        assert (attributes.memorySizeMB, attributes.multiprocessorCount) == (profile.memory_mib, profile.sm)
        assert number == n.nvmlDeviceGetGpuInstanceId(mig)
    for profile in board.mig.profiles:
        for instance in instances(device, profile.id):
            for created in compute_instances(instance, whole_compute_profile(instance)):
                n.nvmlComputeInstanceDestroy(created)
            n.nvmlGpuInstanceDestroy(instance)
    assert mig_devices(device) == []
    assert [n.nvmlDeviceGetGpuInstanceRemainingCapacity(device, profile.id) for profile in board.mig.profiles] == [
        profile.max for profile in board.mig.profiles
    ]
    n.nvmlDeviceSetMigMode(device, 0)
    zoo.driver.reset(zoo.gpu(key)["index"])
