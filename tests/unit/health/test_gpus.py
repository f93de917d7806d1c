# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver says of the GPUs, on an emulated machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu import nvml
from ansible_collections.hpc.compute.plugins.module_utils.gpu.memory_errors import MemoryErrors, memory_errors
from ansible_collections.hpc.compute.plugins.module_utils.gpu.nvml import NvmlError, PynvmlMissing
from ansible_collections.hpc.compute.plugins.module_utils.health.gpus import look_at_gpus
from ansible_collections.hpc.compute.plugins.module_utils.health.settings import Settings, parse_settings
from ansible_collections.hpc.compute.plugins.module_utils.mig.lock import LOCK
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored
from emulator.testing import EmulatedDriver

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
LAYOUT = """\
version: v1
mig-configs:
  sevenths:
    - devices: [1]
      mig-enabled: true
      mig-devices: {1g.10gb: COUNT}
"""


class Node:
    def __init__(self, driver: EmulatedDriver, root: Path) -> None:
        self.driver = driver
        self.root = root

    def look(self, settings: Settings | None = None) -> dict[str, list[str]]:
        """What is found, as ``LEVEL SUBJECT MESSAGE``, of the checks that find anything."""
        found = look_at_gpus(self.root, nvml.load_pynvml, settings or Settings())
        assert set(found) == {"driver", "gpus", "ecc", "layout", "devices", "gres"}
        return {
            check: [f"{one.level} {one.subject} {one.message}" for one in some] for check, some in found.items() if some
        }

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def store_layout(self, count: int = 2) -> None:
        self.write("etc/hpc-compute/gpu-layout.yml", LAYOUT.replace("COUNT", str(count)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with EmulatedDriver("h100-80,h100-80=1g.10gb*2", root=tmp_path) as driver:
        yield Node(driver, tmp_path)


def test_a_node_that_is_well(node: Node) -> None:
    node.store_layout()
    node.write(str(STORED), Stored(gres="gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_h100_80gb_hbm3_1g.10gb:2").text())
    assert node.look() == {}


def test_a_machine_without_gpus_is_well(tmp_path: Path) -> None:
    with EmulatedDriver("none", root=tmp_path) as driver:
        assert Node(driver, tmp_path).look() == {}


def test_a_lost_gpu(node: Node) -> None:
    node.driver.lose(0)
    found = node.look()
    assert set(found) == {"gpus"}
    assert found["gpus"][0].startswith(f"fault {FIRST} GPU {FIRST} is lost")
    assert "; " not in found["gpus"][0]


def test_a_driver_that_fails_is_the_only_finding(node: Node) -> None:
    node.store_layout(7)
    node.write(str(STORED), Stored(gres="gpu:8").text())
    node.driver.fault("nvmlInit*", error="DRIVER_NOT_LOADED")
    found = node.look()
    assert set(found) == {"driver"}
    assert found["driver"][0].startswith("fault  libnvidia-ml is installed, but no kernel driver answers it")


def test_what_nobody_can_tell_is_no_fault(node: Node) -> None:
    node.store_layout(7)

    def missing() -> None:
        raise PynvmlMissing("No module named pynvml")

    found = look_at_gpus(node.root, missing, Settings())
    assert [one.level for one in found["driver"]] == ["unknown"]
    assert not any(some for check, some in found.items() if check != "driver")


def test_memory_errors(node: Node) -> None:
    node.driver.memory_errors(0, uncorrected=3, pending=True, failed=True)
    node.driver.memory_errors(1, uncorrected=1)
    assert node.look()["ecc"] == [
        f"fault {FIRST} GPU memory: remapping a faulty row failed, the board needs service",
        f"fault {FIRST} GPU memory: a faulty row waits to be remapped, reset the GPU",
        f"fault {FIRST} GPU memory: 3 uncorrected ECC errors, reset the GPU",
        f"fault {SECOND} GPU memory: 1 uncorrected ECC errors, reset the GPU",
    ]
    assert len(node.look(parse_settings('{"uncorrected_errors": 1}'))["ecc"]) == 3
    assert "ecc" not in node.look(parse_settings('{"checks": {"ecc": "off"}}'))


def test_memory_errors_that_cannot_be_read(node: Node) -> None:
    node.driver.fault("nvmlDeviceGetTotalEccErrors", error="UNKNOWN", gpu=0)
    found = node.look()
    assert found["ecc"][0].startswith(f"unknown {FIRST} memory errors could not be read: nvmlDeviceGetTotalEccErrors")
    node.driver.clear_faults()
    node.driver.fault("nvmlDeviceGetTotalEccErrors", error="GPU_IS_LOST", gpu=0)
    assert "ecc" not in node.look()


def test_boards_that_lack_something_have_no_errors_of_it(tmp_path: Path) -> None:
    with EmulatedDriver("t4,h100-80", root=tmp_path) as driver, nvml.session() as library:
        old, new = (gpu["pci_address"] for gpu in driver.show()["gpus"])
        driver.memory_errors(0, pending=True)
        assert memory_errors(library, old) == MemoryErrors(0, remap_pending=True)
        assert memory_errors(library, new) == MemoryErrors(0)
        driver.fault("nvmlDeviceGetTotalEccErrors", error="NOT_SUPPORTED")
        driver.fault("nvmlDeviceGetRemappedRows", error="NOT_SUPPORTED")
        assert memory_errors(library, new) == MemoryErrors()
        driver.fault("nvmlDeviceGetRetiredPagesPendingStatus", error="UNKNOWN")
        with pytest.raises(NvmlError, match="RetiredPages"):
            memory_errors(library, old)


def test_another_layout_than_the_stored_one(node: Node) -> None:
    node.store_layout(7)
    assert node.look()["layout"] == [
        f"fault {SECOND} the GPU is cut otherwise than the stored layout (gpu-layout plan)"
    ]
    assert "layout" not in node.look(parse_settings('{"checks": {"layout": "off"}}'))
    node.store_layout(8)
    assert node.look()["layout"][0].startswith(f"note {SECOND} the stored layout can't be had here: ")
    node.write("etc/hpc-compute/gpu-layout.yml", LAYOUT.replace("COUNT", "1").replace("[1]", "[5]"))
    assert node.look()["layout"][0].startswith("fault  the stored layout names a GPU that is not here: ")
    node.write("etc/hpc-compute/gpu-layout.yml", "version: v9")
    assert node.look()["layout"][0].startswith("unknown  the stored layout could not be compared: ")


def test_instances_in_use_do_not_hide_another_layout(node: Node) -> None:
    shown = node.driver.show()["gpus"][1]["gpu_instances"][0]["id"]
    node.driver.busy(f"1/{shown}/0", os.getpid())
    node.store_layout(1)
    assert "cut otherwise" in node.look()["layout"][0]


def test_other_devices_than_slurm_expects(node: Node) -> None:
    node.write(str(STORED), Stored(gres="gpu:nvidia_h100_80gb_hbm3:2").text())
    assert node.look()["gres"][0].startswith("fault  the devices are not those of Slurm's Gres=gpu:nvidia_h100")
    assert "gres" not in node.look(parse_settings('{"checks": {"gres": "off"}}'))
    node.write("etc/slurm/slurm.conf", "Include nowhere.conf\n")
    assert node.look()["gres"][0].startswith("unknown  what Slurm expects is not known: ")
    node.write(str(STORED), "{}")
    assert node.look()["gres"][0].startswith("unknown  what Slurm expects is not known: ")


def test_device_files(node: Node) -> None:
    (node.root / "dev/nvidia0").unlink()
    assert node.look()["devices"][0].startswith(f"fault {FIRST} device files of GPU {FIRST} are missing")


def test_a_gpu_that_is_a_virtual_machines(tmp_path: Path) -> None:
    with EmulatedDriver("h100-80", root=tmp_path, kernel_driver="vfio-pci") as driver:
        (found,) = Node(driver, tmp_path).look()["driver"]
    assert found.startswith("note")
    assert "vfio-pci" in found


def test_nothing_is_said_of_a_layout_that_is_being_changed(node: Node) -> None:
    node.store_layout(7)
    (node.root / LOCK).parent.mkdir(parents=True, exist_ok=True)
    with (node.root / LOCK).open("w") as file:
        assert "fault" in node.look()["layout"][0]
        fcntl.flock(file, fcntl.LOCK_EX)
        assert node.look() == {"layout": ["unknown  the layout of the GPUs is just being changed"]}
