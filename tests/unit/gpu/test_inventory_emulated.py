# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of emulated machines, read through the real pynvml from a library that behaves as NVIDIA's does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu import inventory as engine
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Gpu, Inventory, MigState, Problem
from emulator.boards import Board, boards
from emulator.testing import EmulatedDriver

BOARDS = pytest.mark.parametrize("board", boards().values(), ids=lambda board: board.key)
MIXED = "h100-80,h100-80=3g.40gb:2g.20gb:1g.10gb*2"


def codes(inventory: Inventory) -> list[tuple[str, str | None]]:
    return [(problem.code, problem.pci_address) for problem in inventory.problems]


def only(inventory: Inventory) -> Problem:
    (problem,) = inventory.problems
    return problem


@BOARDS
def test_every_board_whole(board: Board, tmp_path: Path) -> None:
    with EmulatedDriver(board.key, root=tmp_path) as driver:
        inventory = read_inventory(tmp_path)
        (shown,) = driver.show()["gpus"]
    assert inventory.problems == ()
    (gpu,) = inventory.gpus
    assert (gpu.pci_address, gpu.uuid, gpu.minor) == (shown["pci_address"], shown["uuid"], shown["minor"])
    assert (gpu.name, gpu.memory_mib, gpu.device_id) == (board.name, board.memory_mib, board.pci_device_id)
    assert gpu.board == board.board_class
    assert gpu.mig == MigState(*([True, False, False] if board.mig else [False]))
    assert gpu.gpu_instances == ()
    assert gpu.device_files == (f"/dev/nvidia{gpu.minor}",)


@pytest.mark.parametrize("board", [board for board in boards().values() if board.mig], ids=lambda board: board.key)
def test_every_board_cut_into_as_many_of_each_profile_as_fit(board: Board, tmp_path: Path) -> None:
    assert board.mig is not None
    spec = ",".join(f"{board.key}={profile.name}*{profile.max}" for profile in board.mig.profiles)
    with EmulatedDriver(spec, root=tmp_path, shuffle_minors=True, seed=7) as driver:
        inventory = read_inventory(tmp_path)
        shown = driver.show()["gpus"]
        published = (tmp_path / "proc/driver/nvidia-caps/mig-minors").read_text()
    assert inventory.problems == ()
    assert [gpu.minor for gpu in inventory.gpus] != [gpu.index for gpu in inventory.gpus]
    minors = {name: int(number) for name, number in map(str.split, published.splitlines())}
    uuids: list[str | None] = []
    for gpu, truth, profile in zip(inventory.gpus, shown, board.mig.profiles, strict=True):
        assert len(gpu.gpu_instances) == profile.max
        assert [(one.id, one.profile, one.placement.start) for one in gpu.gpu_instances] == sorted(
            ((one["id"], one["profile"], one["start"]) for one in truth["gpu_instances"]), key=lambda one: one[2]
        )
        for instance in gpu.gpu_instances:
            assert (instance.profile, instance.profile_id) == (profile.name, profile.id)
            assert (instance.placement.size, instance.memory_mib) == (profile.size, profile.memory_mib)
            (one,) = instance.compute_instances
            assert one.name == f"{board.name} MIG {profile.name}"
            place = f"gpu{gpu.minor}/gi{instance.id}"
            assert one.device_files == (
                f"/dev/nvidia{gpu.minor}",
                f"/dev/nvidia-caps/nvidia-cap{minors[f'{place}/access']}",
                f"/dev/nvidia-caps/nvidia-cap{minors[f'{place}/ci0/access']}",
            )
            assert all((tmp_path / name[1:]).exists() for name in one.device_files)
            uuids.append(one.uuid)
    assert None not in uuids
    assert len(set(uuids)) == len(uuids)


def test_a_board_of_eight_has_switches_and_a_pair_has_peers(tmp_path: Path) -> None:
    with EmulatedDriver("8xh100-80", root=tmp_path / "eight"):
        eight = read_inventory(tmp_path / "eight")
    assert (len(eight.gpus), eight.nvswitch_count, eight.problems) == (8, 4, ())
    assert all(gpu.nvlink_peers == {} for gpu in eight.gpus)
    assert {gpu.numa_node for gpu in eight.gpus} == {0, 1}
    with EmulatedDriver("2xh100-80", root=tmp_path / "two"):
        two = read_inventory(tmp_path / "two")
    first, second = two.gpus
    assert (first.nvlink_peers, second.nvlink_peers) == ({second.pci_address: 18}, {first.pci_address: 18})
    assert (two.nvswitch_count, two.problems) == (0, ())


def test_a_machine_without_gpu(tmp_path: Path) -> None:
    with EmulatedDriver("none", root=tmp_path):
        inventory = read_inventory(tmp_path)
    assert (inventory.gpus, inventory.problems) == ((), ())


@pytest.mark.parametrize(("kernel_driver", "code"), [("none", "driver_missing"), ("nouveau", "wrong_kernel_driver")])
def test_a_gpu_without_its_driver(kernel_driver: str, code: str, tmp_path: Path) -> None:
    with EmulatedDriver("2xh100-80", root=tmp_path, kernel_driver=kernel_driver):
        inventory = read_inventory(tmp_path)
    assert [gpu.board for gpu in inventory.gpus] == ["h100_80", "h100_80"]
    assert only(inventory).code == code
    assert inventory.driver_version is None


def test_a_gpu_that_falls_off_the_bus_hides_no_other(tmp_path: Path) -> None:
    with EmulatedDriver(MIXED, root=tmp_path) as driver:
        before = read_inventory(tmp_path)
        driver.lose(0)
        after = read_inventory(tmp_path)
    lost, other = after.gpus
    assert codes(after) == [("gpu_lost", lost.pci_address)]
    assert lost.uuid is None
    assert other == before.gpus[1]


def cut(gpu: Gpu) -> list[str | None]:
    return [instance.profile for instance in gpu.gpu_instances]


def test_a_reboot_takes_the_instances_and_on_hopper_the_mode(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80=1g.10gb*2,a100-40=1g.5gb*2", root=tmp_path) as driver:
        assert [cut(gpu) for gpu in read_inventory(tmp_path).gpus] == [["1g.10gb"] * 2, ["1g.5gb"] * 2]
        driver.reboot()
        inventory = read_inventory(tmp_path)
    hopper, ampere = inventory.gpus
    assert hopper.mig == MigState(True, False, False)
    assert ampere.mig == MigState(True, True, True)
    assert (cut(hopper), cut(ampere)) == ([], [])
    assert codes(inventory) == [("mig_without_instances", ampere.pci_address)]


def test_a_mode_change_on_ampere_waits_for_a_reset(tmp_path: Path) -> None:
    with EmulatedDriver("a100-40", root=tmp_path) as driver:
        pynvml.nvmlInit()
        pynvml.nvmlDeviceSetMigMode(pynvml.nvmlDeviceGetHandleByIndex(0), 1)
        pynvml.nvmlShutdown()
        waiting = read_inventory(tmp_path)
        driver.reset(0)
        done = read_inventory(tmp_path)
    assert waiting.gpus[0].mig == MigState(True, False, True)
    assert only(waiting).code == "mode_change_pending"
    assert done.gpus[0].mig == MigState(True, True, True)
    assert only(done).code == "mig_without_instances"


def test_a_gpu_instance_shared_by_compute_instances(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80=", root=tmp_path):
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        instance = pynvml.nvmlDeviceCreateGpuInstance(gpu, 9)
        empty = read_inventory(tmp_path)
        for _ in range(2):
            pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
        shared = read_inventory(tmp_path)
        pynvml.nvmlShutdown()
    assert cut(empty.gpus[0]) == ["3g.40gb"]
    assert only(empty).code == "mig_without_instances"
    assert shared.problems == ()
    assert cut(shared.gpus[0]) == ["3g.40gb"]
    first, second = shared.gpus[0].gpu_instances[0].compute_instances
    assert first.name == second.name == "NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb"
    assert first.uuid != second.uuid
    assert first.device_files[:2] == second.device_files[:2]
    assert first.device_files[2] != second.device_files[2]


def test_instances_are_found_behind_a_gap_in_the_indices(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80=1g.10gb*3", root=tmp_path):
        before = read_inventory(tmp_path)
        first = min(before.gpus[0].gpu_instances, key=lambda one: one.compute_instances[0].mig_index or 0)
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        instance = pynvml.nvmlDeviceGetGpuInstanceById(gpu, first.id)
        pynvml.nvmlComputeInstanceDestroy(pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0))
        pynvml.nvmlGpuInstanceDestroy(instance)
        pynvml.nvmlShutdown()
        after = read_inventory(tmp_path)
    assert after.problems == ()
    assert {one.id for one in after.gpus[0].gpu_instances} == {one.id for one in before.gpus[0].gpu_instances} - {
        first.id
    }
    assert all(one.compute_instances[0].uuid for one in after.gpus[0].gpu_instances)


def test_without_privileges_instances_are_not_called_missing(tmp_path: Path) -> None:
    with EmulatedDriver(MIXED, root=tmp_path) as driver:
        for call in ("nvmlDeviceGetGpuInstances", "nvmlGpuInstanceGetComputeInstances"):
            driver.fault(call, error="NO_PERMISSION")  # nvml.h: requires privileged user
        inventory = read_inventory(tmp_path)
    assert codes(inventory) == [("gpu_unreadable", inventory.gpus[1].pci_address)]
    assert "run this as root" in only(inventory).message


READ = """
import json, sys, pathlib
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
print(json.dumps(read_inventory(pathlib.Path(sys.argv[1])).to_dict()))
"""


def read_elsewhere(root: Path, environment: dict[str, str]) -> Inventory:
    """In a process of its own, which has no library loaded yet."""
    done = subprocess.run(
        [sys.executable, "-c", READ, root],
        env={**environment, "PYTHONPATH": str(Path(engine.__file__).parents[6])},
        capture_output=True,
        text=True,
        check=True,
    )
    return Inventory.from_dict(json.loads(done.stdout))


def test_a_library_older_than_mig_names_what_is_lost(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80=1g.10gb*2", root=tmp_path, old_library=True) as driver:
        inventory = read_elsewhere(tmp_path, driver.environment())
    assert inventory.problems
    assert {problem.code for problem in inventory.problems} == {"nvml_function_missing"}
    (gpu,) = inventory.gpus
    assert gpu.uuid is not None


def test_a_missing_library_is_told(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80", root=tmp_path) as driver:
        environment = {name: value for name, value in driver.environment().items() if name != "LD_LIBRARY_PATH"}
        inventory = read_elsewhere(tmp_path, environment)
    assert only(inventory).code == "nvml_library_missing"
    assert inventory.driver_version == "550.163.01"
    assert inventory.gpus[0].uuid is None


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedDriver]:
    with EmulatedDriver(f"{MIXED},h100-80", root=tmp_path_factory.mktemp("machine")) as driver:
        yield driver


@pytest.fixture
def root(driver: EmulatedDriver) -> Iterator[Path]:
    assert driver.root is not None
    yield driver.root
    driver.clear_faults()


# Every NVML function that the inventory calls on this machine; the test below holds the list to what is called.
GPU_CALLS = (
    "nvmlComputeInstanceGetInfo_v2",
    "nvmlDeviceGetComputeInstanceId",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetGpuInstanceProfileInfoV",
    "nvmlDeviceGetGpuInstances",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetName",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetUUID",
    "nvmlGpuInstanceGetComputeInstanceProfileInfoV",
    "nvmlGpuInstanceGetComputeInstances",
    "nvmlGpuInstanceGetInfo",
)
MACHINE_CALLS = (
    "nvmlDeviceGetCount_v2",
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetNVMLVersion",
)
# With these answers the driver says "there is none", and these calls have one: no MIG, no (further) NVLink, no such
# profile, no MIG device of this index.
ANSWERS = {
    ("nvmlDeviceGetMigMode", "NOT_SUPPORTED"),
    ("nvmlDeviceGetNvLinkState", "NOT_SUPPORTED"),
    ("nvmlDeviceGetNvLinkRemotePciInfo_v2", "NOT_SUPPORTED"),
    ("nvmlGpuInstanceGetComputeInstanceProfileInfoV", "NOT_SUPPORTED"),
    ("nvmlDeviceGetMigDeviceHandleByIndex", "NOT_FOUND"),
    # the older form of these is asked then, and it works
    ("nvmlDeviceGetGpuInstanceProfileInfoV", "FUNCTION_NOT_FOUND"),
    ("nvmlGpuInstanceGetComputeInstanceProfileInfoV", "FUNCTION_NOT_FOUND"),
}
ERRORS = {
    "UNKNOWN": "gpu_unreadable",
    "GPU_IS_LOST": "gpu_lost",
    "NO_PERMISSION": "gpu_unreadable",
    "NOT_SUPPORTED": "gpu_unreadable",
    "NOT_FOUND": "gpu_unreadable",
    "RESET_REQUIRED": "gpu_unreadable",
    "FUNCTION_NOT_FOUND": "nvml_function_missing",
}


def test_the_lists_name_every_call(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, object] = {}
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", called)
    assert read_inventory(root).problems == ()
    assert sorted(called) == sorted((*GPU_CALLS, *MACHINE_CALLS))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", GPU_CALLS)
def test_each_call_may_fail_for_one_gpu(call: str, error: str, driver: EmulatedDriver, root: Path) -> None:
    before = read_inventory(root)
    driver.fault(call, error=error, gpu=1)
    after = read_inventory(root)
    assert [gpu.pci_address for gpu in after.gpus] == [gpu.pci_address for gpu in before.gpus]
    assert after.gpus[::2] == before.gpus[::2]
    assert Inventory.from_dict(after.to_dict()) == after
    # a GPU in MIG mode has no active NVLink, so the calls about links are met at another GPU in the next test
    if (call, error) not in ANSWERS and "NvLink" not in call:
        assert after.problems
        expected = ERRORS[error]
        if call.startswith(("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo")) and error != "GPU_IS_LOST":
            expected = "gpu_unreadable"  # not even its address: what is missing matters less than the GPU
        assert {problem.code for problem in after.problems} == {expected}
        assert {problem.pci_address for problem in after.problems} == {
            None if expected == "nvml_function_missing" else after.gpus[1].pci_address
        }


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkRemotePciInfo_v2"])
def test_each_call_about_links_may_fail(call: str, error: str, driver: EmulatedDriver, root: Path) -> None:
    before = read_inventory(root)
    driver.fault(call, error=error, gpu=0)
    after = read_inventory(root)
    assert after.gpus[1:] == before.gpus[1:]
    assert before.gpus[0].nvlink_peers == {before.gpus[2].pci_address: 9}
    assert after.gpus[0].nvlink_peers == {}
    assert [code for code, _address in codes(after)] == ([] if (call, error) in ANSWERS else [ERRORS[error]])


@pytest.mark.parametrize(
    ("call", "error", "code", "gpus_are_read"),
    [
        ("nvmlInitWithFlags", "DRIVER_NOT_LOADED", "driver_not_responding", False),
        ("nvmlInitWithFlags", "NO_PERMISSION", "driver_not_responding", False),
        ("nvmlInitWithFlags", "UNKNOWN", "driver_not_responding", False),
        ("nvmlInitWithFlags", "LIB_RM_VERSION_MISMATCH", "version_mismatch", False),
        ("nvmlInitWithFlags", "FUNCTION_NOT_FOUND", "nvml_function_missing", False),
        ("nvmlDeviceGetCount_v2", "UNKNOWN", "driver_not_responding", False),
        ("nvmlShutdown", "UNKNOWN", "driver_not_responding", True),
        ("nvmlSystemGetDriverVersion", "UNKNOWN", "driver_not_responding", True),
        ("nvmlSystemGetNVMLVersion", "FUNCTION_NOT_FOUND", "nvml_function_missing", True),
    ],
)
def test_each_call_about_the_machine_may_fail(
    call: str, error: str, code: str, gpus_are_read: bool, driver: EmulatedDriver, root: Path
) -> None:
    driver.fault(call, error=error)
    inventory = read_inventory(root)
    driver.clear_faults()
    assert codes(inventory) == [(code, None)]
    assert inventory.driver_version == "550.163.01"  # from the kernel module where NVML does not tell
    assert [gpu.uuid is not None for gpu in inventory.gpus] == [gpus_are_read] * 3
    assert read_inventory(root).problems == ()


def test_files_that_are_not_there_are_told(driver: EmulatedDriver, root: Path) -> None:
    whole = root / "dev/nvidia0"
    capability = next((root / "dev/nvidia-caps").glob("nvidia-cap[0-9]*[0-9]"))
    minors = root / "proc/driver/nvidia-caps/mig-minors"
    contents = {path: path.read_bytes() for path in (whole, capability, minors)}
    try:
        whole.unlink()
        assert codes(read_inventory(root)) == [("capability_files_missing", read_inventory(root).gpus[0].pci_address)]
        whole.write_bytes(contents[whole])
        for path in (root / "dev/nvidia-caps").iterdir():
            contents[path] = path.read_bytes()
            path.unlink()
        assert codes(read_inventory(root)) == [("capability_files_missing", read_inventory(root).gpus[1].pci_address)]
        minors.unlink()
        assert codes(read_inventory(root)) == [("capability_files_missing", None)]
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
