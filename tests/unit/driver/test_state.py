# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as it is read, and what the driver on disk and the loaded one ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.driver.machine import (
    Loaded,
    Machine,
    parse_loaded,
    read_machine,
)
from ansible_collections.hpc.compute.plugins.module_utils.driver.state import (
    read_state,
    reboot_reasons,
    wrong_on_disk,
)
from ansible_collections.hpc.compute.plugins.module_utils.gpu.pci import PciFunction
from ansible_collections.hpc.compute.plugins.modules import nvidia_driver_plan, nvidia_driver_state

KERNEL = "6.12.118+deb13-amd64"
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025\nGCC version: 14\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@x)  Sun Jul 27\n"
OPEN_LOADED = Loaded("580.65.06", open=True)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def gpu_at(root: Path, driver: str | None = None) -> None:
    device = root / "sys/bus/pci/devices/0000:3b:00.0"
    for name, text in {"vendor": "0x10de", "device": "0x20b5", "class": "0x030200"}.items():
        write(device / name, f"{text}\n")
    for name in ("subsystem_vendor", "subsystem_device"):
        write(device / name, "0x10de\n")
    if driver:
        (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")


def run_of(answers: dict[str, tuple[int, str, str]]) -> Any:
    def run(command: Sequence[str]) -> tuple[int, str, str]:
        return answers.get(command[0], (127, "", ""))

    return run


def test_a_machine_is_read(tmp_path: Path) -> None:
    gpu_at(tmp_path, "nvidia")
    (tmp_path / "lib/modules" / KERNEL / "kernel").mkdir(parents=True)
    write(tmp_path / "proc/driver/nvidia/version", PROPRIETARY)
    write(tmp_path / "proc/cpuinfo", "processor : 0\nflags\t\t: fpu vme hypervisor lahf_lm\n")
    write(tmp_path / "usr/bin/nvidia-uninstall", "")
    write(tmp_path / "etc/dkms/no-autoinstall", "hpc.compute: for the moment of an installation\n")
    shown = "nvidia-smi\t550.163.01-2\tinstalled\tD <d@debian.org>\n"
    machine = read_machine(run_of({"dpkg-query": (1, shown, "no packages found")}), tmp_path, KERNEL)
    assert [gpu.kernel_driver for gpu in machine.gpus] == ["nvidia"]
    assert [kernel.release for kernel in machine.kernels] == [KERNEL]
    assert machine.loaded == Loaded("550.163.01", open=False)
    assert (machine.virtual, machine.runfile, machine.interrupted) == (True, True, True)
    smi = machine.package("nvidia-smi")
    assert smi is not None
    assert smi.version == "550.163.01-2"
    assert machine.package("libcuda1") is None


def test_switches_behind_an_adapter_are_found(tmp_path: Path) -> None:
    gpu_at(tmp_path)
    write(tmp_path / "sys/class/infiniband/mlx5_0/device/vpd", "an adapter like any other")
    assert read_machine(run_of({}), tmp_path).nvswitches == 0
    write(tmp_path / "sys/class/infiniband/mlx5_1/device/vpd", "V2 SMDL=SW_MNG")
    assert read_machine(run_of({}), tmp_path).nvswitches == 1


def test_an_empty_machine_is_read(tmp_path: Path) -> None:
    (tmp_path / "sys/bus").mkdir(parents=True)
    # the site's own decision not to build is none of ours
    write(tmp_path / "etc/dkms/no-autoinstall", "")
    assert read_machine(run_of({}), tmp_path) == Machine()


def test_the_loaded_driver() -> None:
    assert parse_loaded(OPEN) == Loaded("580.65.06", open=True)
    assert parse_loaded("") is None
    loaded = parse_loaded(PROPRIETARY)
    assert loaded is not None
    assert loaded.flavour == "proprietary"


def gpu(driver: str | None) -> PciFunction:
    return PciFunction("0000:3b:00.0", "10de", "20b5", "030200", kernel_driver=driver)


@pytest.mark.parametrize(
    ("driver", "loaded", "on_disk", "said"),
    [
        ("nvidia", Loaded("580.65.06", True), "580.65.06", []),
        ("nvidia", Loaded("580.65.06", True), None, []),
        (
            "nvidia",
            Loaded("550.163.01", False),
            "580.65.06",
            ["driver 550.163.01 is loaded and 580.65.06 is installed"],
        ),
        ("nvidia", Loaded("580.65.06", False), "580.65.06", ["the proprietary modules are loaded and the open"]),
        ("nouveau", None, "580.65.06", ["GPUs are bound to nouveau"]),
        (None, None, None, [f"the module is not there for the running kernel {KERNEL}"]),
        # it can simply be loaded
        (None, None, "580.65.06", []),
        # a guest's
        ("vfio-pci", None, "580.65.06", []),
    ],
)
def test_reasons_to_reboot(driver: str | None, loaded: Loaded | None, on_disk: str | None, said: list[str]) -> None:
    machine = Machine(functions=(gpu(driver),), loaded=loaded, running_kernel=KERNEL)
    reasons = reboot_reasons(machine, "open", {KERNEL: on_disk})
    assert len(reasons) == len(said)
    assert all(reason.startswith(start) for reason, start in zip(reasons, said, strict=True))


def test_parameters_of_the_loaded_driver(tmp_path: Path) -> None:
    params = 'ModifyDeviceFiles: 1\nRmProfilingAdminOnly: 1\nResmanDebugLevel: 4294967295\nRegistryDwords: ""\n'
    write(tmp_path / "proc/driver/nvidia/params", params)
    parameters = read_machine(run_of({}), tmp_path, KERNEL).parameters
    machine = Machine(functions=(gpu("nvidia"),), loaded=OPEN_LOADED, running_kernel=KERNEL, parameters=parameters)

    def reasons(options: dict[str, object]) -> list[str]:
        return reboot_reasons(machine, "open", {KERNEL: OPEN_LOADED.version}, options)

    assert reasons({"NVreg_ModifyDeviceFiles": True, "NVreg_ResmanDebugLevel": -1}) == []
    assert reasons({"NVreg_ModifyDeviceFiles": "0x1", "NVreg_RegistryDwords": '"a=1"', "NVreg_Secret": 1}) == []
    assert reasons({"NVreg_RestrictProfilingToAdminUsers": 0, "NVreg_ModifyDeviceFiles": False}) == [
        "NVreg_ModifyDeviceFiles is 1 in the loaded driver and False is set",
        "NVreg_RestrictProfilingToAdminUsers is 1 in the loaded driver and 0 is set",
    ]


def test_a_parameter_asks_for_a_reboot_once(tmp_path: Path) -> None:
    """One that something else overrides, such as the kernel's command line, would ask for it after each boot."""
    loaded = Machine(functions=(gpu("nvidia"),), loaded=OPEN_LOADED, running_kernel=KERNEL, parameters={"A": "1"})
    settings = write(tmp_path / "etc/modprobe.d/x.conf", "options nvidia A=2\n")

    def reasons() -> tuple[str, ...]:
        run = run_of({"modinfo": (0, OPEN_LOADED.version, "")})
        return read_state(run, loaded, "nvidia", "open", [KERNEL], settings, tmp_path, options={"A": 2}).reboot

    assert reasons() == (), "nothing is known of the boot"
    write(tmp_path / "proc/stat", "cpu 1 2\nbtime 1000\nprocesses 5\n")
    assert reasons() == ("A is 1 in the loaded driver and 2 is set",)
    os.utime(settings, (999, 999))
    assert reasons() == ()


def test_no_reboot_without_a_gpu() -> None:
    assert reboot_reasons(Machine(running_kernel=KERNEL), "open", {}) == []


def test_versions_on_disk_and_old_initramfs(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> tuple[int, str, str]:
        assert command[0] == "modinfo"
        return (0, "580.65.06\n", "") if command[2] == KERNEL else (1, "", "not found")

    settings = write(tmp_path / "etc/modprobe.d/x.conf", "")
    old = write(tmp_path / f"boot/initrd.img-{KERNEL}", "")
    write(tmp_path / "boot/initrd.img-other", "")
    os.utime(old, (1, 1))
    state = read_state(run, Machine(), "nvidia", "open", [KERNEL, "other", "none"], settings, tmp_path)
    assert state.on_disk == {KERNEL: "580.65.06", "other": None, "none": None}
    assert state.stale_initramfs == (KERNEL,)
    assert not state.passthrough
    missing = read_state(run, Machine(), "nvidia", "open", [KERNEL], tmp_path / "absent", tmp_path)
    assert missing.stale_initramfs == ()


def test_dkms_is_taken_at_its_word_only_where_it_is_asked_and_its_file_loads(tmp_path: Path) -> None:
    def run(command: Sequence[str]) -> tuple[int, str, str]:
        return 0, "by modinfo\n", ""

    module = write(tmp_path / f"var/lib/dkms/nvidia-current/550.1/{KERNEL}/x86_64/module/nvidia-current.ko.xz", "x")
    (tmp_path / "var/lib/dkms/nvidia-current/550.1/source").symlink_to("/usr/src/nvidia-current-550.1")
    (tmp_path / f"var/lib/dkms/nvidia-current/kernel-{KERNEL}-x86_64").symlink_to(f"550.1/{KERNEL}/x86_64")
    installed = write(tmp_path / f"lib/modules/{KERNEL}/updates/dkms/{module.name}", "x")
    listed = write(tmp_path / f"lib/modules/{KERNEL}/modules.dep", "updates/dkms/nvidia-current.ko.xz: a.ko\n")

    def version(quick: bool) -> str | None:
        settings = tmp_path / "absent"
        state = read_state(run, Machine(), "nvidia-current", "open", [KERNEL], settings, tmp_path, quick)
        return state.on_disk[KERNEL]

    assert version(False) == "by modinfo"
    assert version(True) == "550.1"
    installed.write_text("y")
    assert version(True) == "by modinfo", "it is another file"
    installed.write_text("x")
    listed.write_text("updates/dkms/nvidia-current.ko.xz:\nextra/nvidia_current.ko:\n")
    assert version(True) == "by modinfo", "another may be loaded"
    listed.write_text("extra/nvidia-current.ko:\n")
    assert version(True) == "by modinfo", "another is loaded"
    listed.unlink()
    assert version(True) == "by modinfo", "nobody knows what is loaded"


def test_a_guest_with_gpus_is_told(tmp_path: Path) -> None:
    guest = Machine(functions=(gpu("nvidia"),), virtual=True)
    assert read_state(run_of({}), guest, "nvidia", "open", [], tmp_path / "x", tmp_path).passthrough


def test_a_wrong_version_is_named() -> None:
    assert wrong_on_disk("nvidia", "580.65.06", {"a": "580.65.06"}) is None
    assert wrong_on_disk("nvidia", "", {"a": None}) is None
    said = wrong_on_disk("nvidia", "580.65.06", {"a": "580.65.06", "b": None, "c": "550.1"}) or ""
    assert "found no module for b, 550.1 for c" in said
    assert "modinfo -k b nvidia" in said


class Exited(Exception):  # noqa: N818  # it is how a module ends, not an error
    pass


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a module ended with."""
    result: dict[str, Any] = {}

    def end(self: AnsibleModule, **values: Any) -> None:
        result.update(values)
        raise Exited

    monkeypatch.setattr(AnsibleModule, "exit_json", end)
    monkeypatch.setattr(AnsibleModule, "fail_json", end)
    return result


def test_module_plan(ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nvidia_driver_plan,
        "read_machine",
        lambda run, release: read_machine(run, Path("/nonexistent"), release),
    )
    targets = "http://deb.debian.org/debian/|/usr/share/keyrings/debian-archive-keyring.pgp\n"
    monkeypatch.setattr(AnsibleModule, "run_command", lambda self, command, **more: (0, _told(command, targets), ""))
    with pytest.raises(Exited), patch_module_args({"only_with_gpu": False}):
        nvidia_driver_plan.main()
    assert "No kernel is installed" in ended["msg"]
    ended.clear()
    with pytest.raises(Exited), patch_module_args({"only_with_gpu": True, "archive": True}):
        nvidia_driver_plan.main()
    assert ended["wanted"] is False
    assert ended["archive"] == {
        "uri": "http://deb.debian.org/debian",
        "signed_by": "/usr/share/keyrings/debian-archive-keyring.pgp",
    }
    assert json.dumps(ended)

    def missing(self: AnsibleModule, command: list[str], **more: object) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(AnsibleModule, "run_command", missing)
    ended.clear()
    with pytest.raises(Exited), patch_module_args({"only_with_gpu": True, "archive": True}):
        nvidia_driver_plan.main()
    assert ended["archive"] == {}


def _told(command: list[str], targets: str) -> str:
    return targets if command[0] == "apt-get" else ""


def test_module_state(ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia_driver_state, "read_machine", lambda run, release: Machine(running_kernel=release))
    monkeypatch.setattr(AnsibleModule, "run_command", lambda self, command, **more: (0, "580.65.06\n", ""))
    given = {"flavour": "open", "kernels": [KERNEL], "settings": str(tmp_path / "absent")}
    with pytest.raises(Exited), patch_module_args(given):
        nvidia_driver_state.main()
    assert ended["on_disk"] == {KERNEL: "580.65.06"}
    assert (ended["changed"], ended["loaded"], ended["gpus"], list(ended["reboot"])) == (False, None, [], [])
    ended.clear()
    with pytest.raises(Exited), patch_module_args({**given, "require_version": "595.1"}):
        nvidia_driver_state.main()
    assert "expected version 595.1 of the module nvidia" in ended["msg"]
