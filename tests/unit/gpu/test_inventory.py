# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""sysfs and driver joined: what each difference between them is called, and that one cause gives one problem."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory, MigState, Problem
from ansible_collections.hpc.compute.plugins.module_utils.gpu.nvml import Loader, PynvmlMissing
from unit.gpu.fake_pynvml import FakeCi, FakeGi, FakeGpu, FakePynvml
from unit.gpu.machine_trees import add_device, expand, load, write

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
H100 = {
    "vendor": "0x10de",
    "device": "0x2330",
    "class": "0x030200",
    "subsystem_vendor": "0x10de",
    "subsystem_device": "0x16c1",
    "numa_node": "1",
    "local_cpulist": "16-31",
}


def machine(root: Path, *drivers: str | None) -> Path:
    """A machine with an H100 for each driver that is bound to it."""
    for address, driver in zip((FIRST, SECOND), drivers, strict=False):
        add_device(root, address, H100 if driver is None else {**H100, "driver": driver})
    (root / "sys/bus/pci/devices").mkdir(parents=True, exist_ok=True)
    if "nvidia" in drivers:
        write(root / "sys/module/nvidia/version", "550.163.01\n")
        for minor in range(2):
            write(root / f"dev/nvidia{minor}")
    return root


def driver(*gpus: FakeGpu) -> FakePynvml:
    return FakePynvml(list(gpus))


def two() -> tuple[FakeGpu, FakeGpu]:
    return FakeGpu(), FakeGpu(bus_id="00000000:43:00.0", uuid="GPU-1", minor=1)


def failing(code: int) -> Loader:
    fake = FakePynvml([])
    fake.fail("nvmlInit", code)
    return lambda: fake


def no_pynvml() -> None:
    raise PynvmlMissing("No module named 'pynvml'")


def only(inventory: Inventory) -> Problem:
    (problem,) = inventory.problems
    return problem


def test_both_sources_are_joined_by_address_in_spite_of_order_and_notation(tmp_path: Path) -> None:
    first, second = two()
    first.links = {0: "00000000:43:00.0", 1: "00000000:43:00.0", 2: "00000000:07:00.0", 3: "00000000:1B:00.0"}
    inventory = read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: driver(second, first))
    assert inventory.problems == ()
    assert (inventory.driver_version, inventory.nvml_version) == ("550.163.01", "12.550.163.01")
    assert [(gpu.pci_address, gpu.index, gpu.minor, gpu.uuid) for gpu in inventory.gpus] == [
        (FIRST, 1, 0, "GPU-0"),
        (SECOND, 0, 1, "GPU-1"),
    ]
    gpu = inventory.gpus[0]
    assert (gpu.numa_node, gpu.cpu_affinity, gpu.kernel_driver, gpu.class_code) == (1, "16-31", "nvidia", "030200")
    assert (gpu.board, gpu.name, gpu.memory_mib) == ("h100_80", "NVIDIA H100 80GB HBM3", 81559)
    assert gpu.nvlink_peers == {SECOND: 2}
    assert gpu.mig == MigState(capable=True, current=False, pending=False)
    assert gpu.device_files == ("/dev/nvidia0",)


def test_a_dgx_counts_its_switches(tmp_path: Path) -> None:
    root = expand(load("dgx-h100"), tmp_path)
    buses = ("1B", "43", "52", "61", "9D", "C3", "D1", "DF")
    gpus = [FakeGpu(bus_id=f"00000000:{bus}:00.0", minor=minor) for minor, bus in enumerate(buses)]
    for minor in range(8):
        write(root / f"dev/nvidia{minor}")
    inventory = read_inventory(root, lambda: driver(*gpus))
    assert inventory.problems == ()
    assert (len(inventory.gpus), inventory.nvswitch_count) == (8, 4)


def test_a_recorded_result_reads_back(tmp_path: Path) -> None:
    gpu = FakeGpu(mig=(1, 1), instances=[FakeGi(1, 19, 0, 1, [FakeCi(0)])])
    inventory = read_inventory(machine(tmp_path, "nvidia", None), lambda: driver(gpu))
    assert inventory.problems
    assert Inventory.from_dict(inventory.to_dict()) == inventory


@pytest.mark.parametrize("load_pynvml", [no_pynvml, failing(12), failing(9)])
def test_a_machine_without_gpu_has_no_problem_whatever_is_absent(load_pynvml: Loader, tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path), load_pynvml)
    assert inventory == Inventory()


def test_the_captured_machine_has_no_gpu_and_no_problem(tmp_path: Path) -> None:
    assert read_inventory(expand(load("virtual-machine"), tmp_path), no_pynvml) == Inventory()


def test_without_sysfs_the_question_is_open(tmp_path: Path) -> None:
    assert only(read_inventory(tmp_path, no_pynvml)).code == "sysfs_unreadable"


@pytest.mark.parametrize("load_pynvml", [no_pynvml, failing(12)])
def test_a_loaded_driver_that_can_not_be_asked_matters_only_with_a_gpu(load_pynvml: Loader, tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(root / "sys/module/nvidia/version", "550.163.01")
    assert read_inventory(root, load_pynvml).problems == ()


@pytest.mark.parametrize("code", [9, 999])
def test_a_loaded_driver_that_fails_is_told_even_without_a_gpu(code: int, tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(root / "proc/driver/nvidia/version", load("dgx-h100")["texts"]["proc/driver/nvidia/version"])
    inventory = read_inventory(root, failing(code))
    assert only(inventory).code == "driver_not_responding"
    assert inventory.driver_version == "550.163.01"


@pytest.mark.parametrize("load_pynvml", [no_pynvml, failing(12), failing(9), failing(999)])
def test_a_gpu_without_driver_is_told_as_exactly_that(load_pynvml: Loader, tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path, None), load_pynvml)
    problem = only(inventory)
    assert (problem.code, problem.pci_address) == ("driver_missing", FIRST)
    assert f"GPU {FIRST} is present but has no kernel driver (the nvidia module is not loaded)" in problem.message
    (gpu,) = inventory.gpus
    assert (gpu.board, gpu.mig, gpu.minor) == ("h100_80", MigState(capable=True), None)


def test_gpus_without_driver_are_told_together(tmp_path: Path) -> None:
    problem = only(read_inventory(machine(tmp_path, None, None), no_pynvml))
    assert problem.pci_address is None
    assert f"each of the GPUs {FIRST}, {SECOND} is present" in problem.message


def test_a_gpu_that_the_driver_refused_is_not_told_to_install_one(tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path, "nvidia", None), lambda: driver(FakeGpu()))
    problem = only(inventory)
    assert (problem.code, problem.pci_address) == ("driver_missing", SECOND)
    assert "is loaded but refused it" in problem.message
    assert "install" not in problem.message


@pytest.mark.parametrize(("name", "words"), [("nouveau", "blacklist nouveau"), ("vfio-pci", "virtual machine")])
def test_a_foreign_driver_is_told(name: str, words: str, tmp_path: Path) -> None:
    problem = only(read_inventory(machine(tmp_path, name), failing(9)))
    assert (problem.code, problem.pci_address) == ("wrong_kernel_driver", FIRST)
    assert f"bound to the kernel driver {name}, expected nvidia" in problem.message
    assert words in problem.message


def test_a_foreign_driver_on_several_gpus_is_told_once(tmp_path: Path) -> None:
    problem = only(read_inventory(machine(tmp_path, "nouveau", "nouveau"), failing(9)))
    assert problem.pci_address is None
    assert FIRST in problem.message
    assert SECOND in problem.message


def test_a_workstation_on_nouveau(tmp_path: Path) -> None:
    inventory = read_inventory(expand(load("workstation-nouveau"), tmp_path), no_pynvml)
    assert only(inventory).code == "wrong_kernel_driver"
    assert inventory.gpus[0].board == "rtxpro6000"


@pytest.mark.parametrize(
    ("load_pynvml", "code"),
    [
        (no_pynvml, "pynvml_missing"),
        (failing(12), "nvml_library_missing"),
        (failing(9), "driver_not_responding"),
        (failing(13), "nvml_function_missing"),
        (failing(999), "driver_not_responding"),
    ],
)
def test_a_bound_driver_that_can_not_be_asked_is_one_problem(load_pynvml: Loader, code: str, tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path, "nvidia", "nvidia"), load_pynvml)
    assert only(inventory).code == code
    assert inventory.driver_version == "550.163.01"
    assert [gpu.uuid for gpu in inventory.gpus] == [None, None]


def test_a_version_mismatch_names_the_loaded_module(tmp_path: Path) -> None:
    problem = only(read_inventory(machine(tmp_path, "nvidia"), failing(18)))
    assert problem.code == "version_mismatch"
    assert "the loaded module is 550.163.01: reboot" in problem.message


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.06  Wed Jun 26 06:46:07 UTC 2024\n", "535.183.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.44  Release Build\n", "590.44"),
        ("nothing that is known\n", "550.163.01"),
    ],
)
def test_the_module_tells_its_version_without_nvml(text: str, version: str, tmp_path: Path) -> None:
    root = machine(tmp_path, "nvidia")
    write(root / "proc/driver/nvidia/version", text)
    assert read_inventory(root, no_pynvml).driver_version == version


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetPciInfo"])
def test_a_gpu_that_fell_off_the_bus_is_named_and_hides_no_other(call: str, tmp_path: Path) -> None:
    fake = driver(*two())
    fake.fail(call, 15, gpu=0)
    inventory = read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: fake)
    problem = only(inventory)
    assert (problem.code, problem.pci_address) == ("gpu_lost", FIRST)
    assert [gpu.uuid for gpu in inventory.gpus] == [None, "GPU-1"]


def test_a_gpu_that_the_driver_can_not_open_is_named(tmp_path: Path) -> None:
    fake = driver(*two())
    fake.fail("nvmlDeviceGetHandleByIndex", 999, gpu=1)
    problem = only(read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: fake))
    assert (problem.code, problem.pci_address) == ("gpu_unreadable", SECOND)
    assert "Unknown Error" in problem.message


def test_a_gpu_that_the_driver_does_not_list_is_named(tmp_path: Path) -> None:
    problem = only(read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: driver(FakeGpu())))
    assert (problem.code, problem.pci_address) == ("gpu_unreadable", SECOND)
    assert "the driver does not list it: it failed to start or was excluded" in problem.message


def test_fewer_failures_than_silent_gpus_are_blamed_on_none(tmp_path: Path) -> None:
    fake = driver(FakeGpu())
    fake.fail("nvmlDeviceGetHandleByIndex", 15, gpu=0)
    inventory = read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: fake)
    assert [(one.code, one.pci_address) for one in inventory.problems] == [
        ("gpu_unreadable", FIRST),
        ("gpu_unreadable", SECOND),
    ]
    assert all("GPU is lost" in one.message for one in inventory.problems)


def test_gpus_are_in_the_order_of_their_places(tmp_path: Path) -> None:
    for address in ("2000:01:00.0", "10000:01:00.0"):
        add_device(tmp_path, address, H100)
    assert [gpu.pci_address for gpu in read_inventory(tmp_path, no_pynvml).gpus] == ["2000:01:00.0", "10000:01:00.0"]


def test_failures_that_can_not_be_told_apart_are_all_told(tmp_path: Path) -> None:
    fake = driver(*two())
    fake.fail("nvmlDeviceGetHandleByIndex", 15, gpu=0)
    fake.fail("nvmlDeviceGetPciInfo", 999, gpu=1)
    inventory = read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: fake)
    assert [(one.code, one.pci_address) for one in inventory.problems] == [
        ("gpu_unreadable", FIRST),
        ("gpu_unreadable", SECOND),
    ]
    assert all("GPU is lost" in one.message and "Unknown Error" in one.message for one in inventory.problems)


@pytest.mark.parametrize(("code", "problem"), [(15, "gpu_lost"), (999, "gpu_unreadable")])
def test_a_gpu_that_nobody_can_name_is_still_told(code: int, problem: str, tmp_path: Path) -> None:
    fake = driver(*two())
    fake.fail("nvmlDeviceGetHandleByIndex", code, gpu=1)
    found = only(read_inventory(machine(tmp_path, "nvidia"), lambda: fake))
    assert (found.code, found.pci_address) == (problem, None)
    assert "counts 1 GPU(s)" in found.message


def test_a_gpu_that_sysfs_does_not_show_is_listed_with_a_problem(tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path, "nvidia"), lambda: driver(*two()))
    problem = only(inventory)
    assert (problem.code, problem.pci_address) == ("sysfs_unreadable", SECOND)
    hidden = inventory.gpus[1]
    assert (hidden.pci_address, hidden.vendor_id, hidden.device_id) == (SECOND, "10de", "2330")
    assert (hidden.subsystem_device_id, hidden.numa_node, hidden.uuid) == ("16c1", None, "GPU-1")


def cut(**change: object) -> FakeGpu:
    instances = [FakeGi(3, 19, 0, 1, [FakeCi(0)]), FakeGi(4, 20, 1, 1)]
    return FakeGpu(**{"mig": (1, 1), "minor": 1, "instances": instances, **change})  # type: ignore[arg-type]


def test_instances_get_the_device_files_of_the_minor(tmp_path: Path) -> None:
    root = machine(tmp_path, "nvidia")
    write(root / "proc/driver/nvidia-caps/mig-minors", "gpu1/gi3/access 165\ngpu1/gi3/ci0/access 166\n")
    for name in (165, 166):
        write(root / f"dev/nvidia-caps/nvidia-cap{name}")
    inventory = read_inventory(root, lambda: driver(cut()))
    assert inventory.problems == ()
    first, second = inventory.gpus[0].gpu_instances
    assert first.compute_instances[0].device_files == (
        "/dev/nvidia1",
        "/dev/nvidia-caps/nvidia-cap165",
        "/dev/nvidia-caps/nvidia-cap166",
    )
    assert (second.profile, second.compute_instances) == ("1g.10gb+me", ())


def test_a_missing_list_of_capabilities_is_one_problem_for_all_gpus(tmp_path: Path) -> None:
    second = cut(bus_id="00000000:43:00.0", minor=0)
    inventory = read_inventory(machine(tmp_path, "nvidia", "nvidia"), lambda: driver(cut(), second))
    assert only(inventory).code == "capability_files_missing"
    assert inventory.gpus[0].gpu_instances[0].compute_instances[0].device_files == ()


def test_without_a_minor_there_are_no_device_files_and_one_problem(tmp_path: Path) -> None:
    fake = driver(cut())
    fake.fail("nvmlDeviceGetMinorNumber", 999)
    inventory = read_inventory(machine(tmp_path, "nvidia"), lambda: fake)
    assert "device minor" in only(inventory).message
    assert inventory.gpus[0].device_files == ()


def test_a_missing_device_file_of_a_gpu_is_told(tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path, "nvidia"), lambda: driver(FakeGpu(minor=5)))
    problem = only(inventory)
    assert (problem.code, problem.pci_address) == ("capability_files_missing", FIRST)
    assert "dev/nvidia5" in problem.message


def test_the_catalogue_names_what_the_driver_does_not(tmp_path: Path) -> None:
    gpu = FakeGpu(mig=(1, 1), profiles={0: (19, "", 9984)}, instances=[FakeGi(1, 19, 0, 1)])
    inventory = read_inventory(machine(tmp_path, "nvidia"), lambda: driver(gpu))
    assert inventory.gpus[0].gpu_instances[0].profile == "1g.10gb"
    gpu.profiles = {0: (19, "MIG 1g.11gb", 9984)}
    assert read_inventory(tmp_path, lambda: driver(gpu)).gpus[0].gpu_instances[0].profile == "1g.11gb"
    gpu.profiles = {0: (99, "", 9984)}
    gpu.instances = [FakeGi(1, 99, 0, 1)]
    inventory = read_inventory(tmp_path, lambda: driver(gpu))
    assert inventory.gpus[0].gpu_instances[0].profile is None


@pytest.mark.parametrize("instances", [[], [FakeGi(3, 19, 0, 1)]])
def test_mig_without_a_compute_instance_is_a_problem(instances: list[FakeGi], tmp_path: Path) -> None:
    gpu = FakeGpu(mig=(1, 1), instances=instances)
    problem = only(read_inventory(machine(tmp_path, "nvidia"), lambda: driver(gpu)))
    assert (problem.code, problem.pci_address) == ("mig_without_instances", FIRST)
    assert "nvidia-smi mig -cgi" in problem.message


def test_instances_that_can_not_be_read_are_not_called_missing(tmp_path: Path) -> None:
    fake = driver(cut())
    fake.fail("nvmlDeviceGetGpuInstances", 4)
    problem = only(read_inventory(machine(tmp_path, "nvidia"), lambda: fake))
    assert problem.code == "gpu_unreadable"
    assert "run this as root" in problem.message


@pytest.mark.parametrize(("mode", "wanted"), [((0, 1), "go on"), ((1, 0), "go off")])
def test_a_pending_mode_change_is_a_problem(mode: tuple[int, int], wanted: str, tmp_path: Path) -> None:
    gpu = cut(mig=mode)
    gpu.instances[0].cis, gpu.minor = [FakeCi(0)], 0
    root = machine(tmp_path, "nvidia")
    write(root / "proc/driver/nvidia-caps/mig-minors", "gpu0/gi3/access 30\ngpu0/gi3/ci0/access 31\n")
    for name in (30, 31):
        write(root / f"dev/nvidia-caps/nvidia-cap{name}")
    problem = only(read_inventory(root, lambda: driver(gpu)))
    assert (problem.code, problem.pci_address) == ("mode_change_pending", FIRST)
    assert wanted in problem.message


def test_a_mig_capable_board_that_the_catalogue_lacks_is_told(tmp_path: Path) -> None:
    add_device(tmp_path, FIRST, {**H100, "device": "0x2bb3", "driver": "nvidia"})
    write(tmp_path / "dev/nvidia0")
    gpu = FakeGpu(pci_device_id=0x2BB310DE, name="NVIDIA RTX PRO 5000 Blackwell")
    inventory = read_inventory(tmp_path, lambda: driver(gpu))
    problem = only(inventory)
    assert (problem.code, problem.pci_address) == ("board_unknown", FIRST)
    assert "NVIDIA RTX PRO 5000 Blackwell, PCI id 10de:2bb3" in problem.message
    assert inventory.gpus[0].board is None


def test_a_board_without_mig_needs_no_catalogue(tmp_path: Path) -> None:
    add_device(tmp_path, FIRST, {**H100, "device": "0x1eb8", "driver": "nvidia"})
    write(tmp_path / "dev/nvidia0")
    inventory = read_inventory(tmp_path, lambda: driver(FakeGpu(pci_device_id=0x1EB810DE, name="Tesla T4", mig=None)))
    assert inventory.problems == ()
    assert inventory.gpus[0].mig == MigState(capable=False)


def test_the_driver_knows_better_than_the_catalogue_whether_a_board_is_mig_capable(tmp_path: Path) -> None:
    inventory = read_inventory(machine(tmp_path, "nvidia"), lambda: driver(FakeGpu(mig=None)))
    assert inventory.gpus[0].mig == MigState(capable=False)


def test_a_library_that_does_not_know_mig_leaves_the_mode_open(tmp_path: Path) -> None:
    fake = driver(FakeGpu())
    fake.fail("nvmlDeviceGetMigMode", 13)
    inventory = read_inventory(machine(tmp_path, "nvidia"), lambda: fake)
    assert only(inventory).code == "nvml_function_missing"
    assert inventory.gpus[0].mig == MigState(capable=True, current=None, pending=None)
