# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collectors on machines whose commands and files are recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.monitoring import gpus, slurm_node, software, updates
from ansible_collections.hpc.compute.plugins.module_utils.monitoring.probe import (
    CollectError,
    Probe,
    run_command,
)
from emulator.testing import EmulatedDriver

from .recorded import KERNEL, Recorded, values

NEWER = "6.12.57+deb13-amd64"
_LAYOUT = """\
version: v1
mig-configs:
  x:
    - devices: {devices}
      mig-enabled: true
      mig-devices: {{{want}}}
"""


# -- Slurm -----------------------------------------------------------------------------------------------------------


def node(states: list[str], reason: str = "") -> str:
    return json.dumps({"nodes": [{"name": "n1", "state": states, "reason": reason, "gres": ""}]})


def slurm(tmp_path: Path, answer: str | tuple[int, str]) -> Recorded:
    machine = Recorded(tmp_path, {"scontrol show node n1 --json": answer})
    machine.file("usr/sbin/slurmd")
    machine.file("etc/default/slurmd", 'SLURMD_OPTIONS="-N n1"\n')
    return machine


def test_no_slurm_nothing_to_tell(tmp_path: Path) -> None:
    assert slurm_node.collect(Recorded(tmp_path).probe) == []


@pytest.mark.parametrize(
    ("states", "reason", "by", "registered", "told"),
    [
        (["IDLE"], "", "none", 1, ()),
        (["IDLE", "DRAIN"], "hpc.compute: layout", "hpc.compute", 1, ("hpc.compute: layout",)),
        (["MIXED", "DRAIN"], "disk", "other", 1, ("disk",)),
        # Slurm keeps the reason after a resume
        (["IDLE"], "hpc.compute: layout", "none", 1, ()),
        (["DOWN", "NOT_RESPONDING"], "Not responding", "none", 0, ("Not responding",)),
        (["IDLE", "DRAIN", "INVALID_REG"], "gres/gpu count", "other", 0, ("gres/gpu count",)),
    ],
)
def test_states(
    tmp_path: Path, states: list[str], reason: str, by: str, registered: int, told: tuple[str, ...]
) -> None:
    metrics = slurm_node.collect(slurm(tmp_path, node(states, reason)).probe)
    shown = {key[0] for key, value in values(metrics, "hpc_slurm_node_state").items() if value == 1}
    assert shown == {one.lower() for one in states}
    drained = {key[0]: value for key, value in values(metrics, "hpc_slurm_node_drained").items()}
    assert drained == {one: float(one == by) for one in ("hpc.compute", "other")}
    assert values(metrics, "hpc_slurm_node_registered") == {(): registered}
    reasons = [one for one in metrics if one.name == "hpc_slurm_node_reason_info"]
    assert tuple(sample.labels["reason"] for one in reasons for sample in one.samples) == told


def test_a_state_that_is_new_is_told_too(tmp_path: Path) -> None:
    metrics = slurm_node.collect(slurm(tmp_path, node(["IDLE", "CLOUD"])).probe)
    assert values(metrics, "hpc_slurm_node_state")[("cloud",)] == 1


def test_a_controller_that_is_away(tmp_path: Path) -> None:
    machine = slurm(tmp_path, (1, "Unable to contact slurm controller (connect failure)"))
    with pytest.raises(CollectError, match="Unable to contact"):
        slurm_node.collect(machine.probe)
    assert len(machine.asked) == 1, "the next run asks again, not this one"


def test_options_that_nobody_can_read(tmp_path: Path) -> None:
    machine = slurm(tmp_path, node(["IDLE"]))
    machine.file("etc/default/slurmd", "SLURMD_OPTIONS='\n")
    with pytest.raises(CollectError, match="expected options in"):
        slurm_node.collect(machine.probe)


def test_without_a_name_of_its_own_a_node_has_its_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "n1.example.org")
    machine = slurm(tmp_path, node(["IDLE"]))
    (tmp_path / "etc/default/slurmd").unlink()
    assert slurm_node.collect(machine.probe)


# -- GPUs ------------------------------------------------------------------------------------------------------------


def test_no_gpu_nothing_to_tell(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    assert gpus.collect(Recorded(tmp_path).probe) == []


def test_a_layout_kept_and_left(tmp_path: Path) -> None:
    with EmulatedDriver("2xh100-80=3g.40gb*2,t4", root=tmp_path) as driver:
        probe = Probe(tmp_path)
        metrics = gpus.collect(probe)
        assert values(metrics, "hpc_gpu_present") == values(metrics, "hpc_gpu_usable") == {(): 3}
        assert values(metrics, "hpc_gpu_layout_stored") == {(): 0}
        assert sorted(values(metrics, "hpc_gpu_mig_instances").values()) == [2, 2]
        assert not [one for one in metrics if one.name == "hpc_gpu_layout_drift"]

        stored = tmp_path / "etc/hpc-compute/gpu-layout.yml"
        stored.parent.mkdir(parents=True)
        stored.write_text(_LAYOUT.format(devices="[0, 1]", want="3g.40gb: 2"))
        assert list(values(gpus.collect(probe), "hpc_gpu_layout_drift").values()) == [0, 0]

        stored.write_text(_LAYOUT.format(devices="[0]", want="1g.10gb: 7"))
        assert list(values(gpus.collect(probe), "hpc_gpu_layout_drift").values()) == [1]

        # One that can't be is a difference, too; and one that the machine lacks is told apart.
        stored.write_text(_LAYOUT.format(devices="[1]", want="3g.40gb: 3"))
        assert list(values(gpus.collect(probe), "hpc_gpu_layout_drift").values()) == [1]
        stored.write_text(_LAYOUT.format(devices="[1, 9]", want="3g.40gb: 2"))
        metrics = gpus.collect(probe)
        assert list(values(metrics, "hpc_gpu_layout_drift").values()) == [0]
        assert values(metrics, "hpc_gpu_layout_missing") == {(): 1}

        driver.fault("nvmlDevice*", error="GPU_IS_LOST", gpu=1)
        metrics = gpus.collect(probe)
        assert values(metrics, "hpc_gpu_usable") == {(): 2}
        assert ("gpu_lost",) in {key[:1] for key in values(metrics, "hpc_gpu_problem")}

        stored.write_text("version: v9\n")
        with pytest.raises(CollectError, match=r"expected to compare the GPUs with .*gpu-layout.yml"):
            gpus.collect(probe)


# -- kernel, modules, driver -----------------------------------------------------------------------------------------


def test_a_container_has_no_kernel(tmp_path: Path) -> None:
    metrics = software.collect(Recorded(tmp_path).probe)
    assert values(metrics, "hpc_reboot_required") == {("package",): 0, ("kernel",): 0}
    assert values(metrics, "hpc_kernel_info") == {(KERNEL, KERNEL): 1}
    assert {one.name for one in metrics} == {"hpc_reboot_required", "hpc_kernel_info"}


@pytest.mark.parametrize(
    ("kernels", "newest", "required"),
    [
        ([KERNEL], KERNEL, 0),
        ([KERNEL, NEWER], NEWER, 1),
        # another flavour is another machine's kernel
        ([KERNEL, "6.12.57+deb13-cloud-amd64"], KERNEL, 0),
        ([NEWER], NEWER, 1),
        (["memtest"], KERNEL, 0),
    ],
)
def test_a_newer_kernel_waits_for_a_reboot(tmp_path: Path, kernels: list[str], newest: str, required: int) -> None:
    machine = Recorded(tmp_path, {"linux-version sort": f"{KERNEL}\n{NEWER}\n"})
    for one in kernels:
        machine.file(f"boot/vmlinuz-{one}")
    metrics = software.collect(machine.probe)
    assert values(metrics, "hpc_reboot_required")[("kernel",)] == required
    assert values(metrics, "hpc_kernel_info") == {(KERNEL, newest): 1}


def test_a_package_asks_for_a_reboot(tmp_path: Path) -> None:
    machine = Recorded(tmp_path)
    machine.file("run/reboot-required")
    assert values(software.collect(machine.probe), "hpc_reboot_required")[("package",)] == 1


def test_a_kernel_of_ones_own_is_compared_with_none(tmp_path: Path) -> None:
    machine = Recorded(tmp_path)
    machine.file("boot/vmlinuz-x")
    probe = Probe(tmp_path, machine.run, machine.probe.load, lambda: "custom")
    assert values(software.collect(probe), "hpc_reboot_required")[("kernel",)] == 0


def test_each_module_for_each_kernel(tmp_path: Path) -> None:
    status = (
        f"nvidia-current/550.163.01, {KERNEL}, x86_64: installed\n"
        f"nvidia-current/550.163.01, {NEWER}, x86_64: built\n"
        "beegfs/8.3.1: added\n"
        f"zfs/2.3, {KERNEL}, x86_64: installed (WARNING! Diff between built and installed module!)\n"
    )
    machine = Recorded(tmp_path, {"dkms status": status, "linux-version sort": f"{KERNEL}\n{NEWER}\n"})
    for path in ("usr/sbin/dkms", f"boot/vmlinuz-{KERNEL}", f"boot/vmlinuz-{NEWER}", f"usr/lib/modules/{KERNEL}/x"):
        machine.file(path)
    found = values(software.collect(machine.probe), "hpc_dkms_module_installed")
    assert found == {
        ("beegfs", "8.3.1", KERNEL): 0,
        ("beegfs", "8.3.1", NEWER): 0,
        ("nvidia-current", "550.163.01", KERNEL): 1,
        ("nvidia-current", "550.163.01", NEWER): 0,
        ("zfs", "2.3", KERNEL): 1,
        ("zfs", "2.3", NEWER): 0,
    }


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Deprecated feature: REMAKE_INITRD\n", "lines of 'dkms status' such as"),
        ((3, "Error! no tree"), "'dkms status' to succeed, it failed with exit code 3: Error! no tree"),
        ((1, ""), "exit code 1: no message"),
    ],
)
def test_a_dkms_that_says_something_else(tmp_path: Path, answer: str | tuple[int, str], said: str) -> None:
    machine = Recorded(tmp_path, {"dkms status": answer})
    machine.file("usr/sbin/dkms")
    with pytest.raises(CollectError, match=said):
        software.collect(machine.probe)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Thu Jan  1 00:00:00 UTC 1970",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01  Release Build",
    ],
)
def test_driver_of_one_version(tmp_path: Path, line: str) -> None:
    with EmulatedDriver("t4", root=tmp_path):
        (tmp_path / "proc/driver/nvidia/version").write_text(f"{line}\n")
        metrics = software.collect(Probe(tmp_path, Recorded(tmp_path).run))
        assert values(metrics, "hpc_gpu_driver_info") == {("550.163.01", "550.163.01"): 1}
        assert values(metrics, "hpc_gpu_driver_mismatch") == {(): 0}


def test_driver_of_two_versions(tmp_path: Path) -> None:
    with EmulatedDriver("t4", root=tmp_path) as driver:
        driver.fault("nvmlInit*", error="LIB_RM_VERSION_MISMATCH")
        metrics = software.collect(Probe(tmp_path, Recorded(tmp_path).run))
        assert values(metrics, "hpc_gpu_driver_mismatch") == {(): 1}
        assert values(metrics, "hpc_gpu_driver_info") == {("550.163.01", ""): 1}


def test_a_driver_that_does_not_tell_its_version(tmp_path: Path) -> None:
    machine = Recorded(tmp_path)
    path = machine.file("proc/driver/nvidia/version", "something else\n")
    with pytest.raises(CollectError, match=r"the version of the kernel module in .*found 'something else'"):
        software.collect(machine.probe)
    path.unlink()
    path.mkdir()
    with pytest.raises(CollectError, match="expected a readable file"):
        software.collect(machine.probe)


# -- updates ---------------------------------------------------------------------------------------------------------


def test_updates_are_counted_by_their_origin(tmp_path: Path) -> None:
    text = (
        "Reading package lists...\n"
        "Inst base-files [13.8] (13.8+deb13u1 Debian:13.1/stable [amd64])\n"
        "Inst linux-image-6.12.57+deb13-amd64 (6.12.57-1 Debian-Security:13/stable-security [amd64])\n"
        "Inst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64]) []\n"
        "Inst site-tool [1] (2 site:1.0/now, Debian:13.1/stable [all])\n"
        "Conf base-files (13.8+deb13u1 Debian:13.1/stable [amd64])\n"
    )
    machine = Recorded(tmp_path, {"apt-get --simulate": text, "apt-mark showhold": "a\nb\n"})
    machine.file("usr/bin/apt-get")
    lists = machine.file("var/lib/apt/lists/partial/x").parent
    metrics = updates.collect(machine.probe)
    assert values(metrics, "hpc_updates_pending") == {("false",): 2, ("true",): 1}
    assert values(metrics, "hpc_packages_held") == {(): 2}
    assert values(metrics, "hpc_package_lists_timestamp_seconds") == {(): 0}
    machine.file("var/lib/apt/lists/mirror_Packages")
    os.utime(lists, (1000, 1000))
    assert values(updates.collect(machine.probe), "hpc_package_lists_timestamp_seconds") == {(): 1000}


def test_no_apt_and_an_apt_that_does_not_work(tmp_path: Path) -> None:
    machine = Recorded(tmp_path, {"apt-get": (100, "E: The list of sources could not be read.")})
    assert updates.collect(machine.probe) == []
    machine.file("usr/bin/apt-get")
    with pytest.raises(CollectError, match="exit code 100: E: The list of sources"):
        updates.collect(machine.probe)
    machine.answers = {"apt-get": "", "apt-mark": ""}
    with pytest.raises(CollectError, match="expected apt's package lists in"):
        updates.collect(machine.probe)


# -- commands --------------------------------------------------------------------------------------------------------


def test_commands_end(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_command(["sh", "-c", "echo $LC_ALL; echo oops >&2; exit 3"])
    assert (done.rc, done.stdout, done.stderr) == (3, "C\n", "oops\n")
    assert run_command(["/nonexistent/command"]).rc == 127
    monkeypatch.setattr("ansible_collections.hpc.compute.plugins.module_utils.monitoring.probe.TIMEOUT", 0.05)
    assert run_command(["sleep", "5"]).rc == 124
