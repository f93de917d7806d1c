# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image boots as a machine, with BIOS and with UEFI and Secure Boot, becomes one of its own, and joins a cluster.

The machines are QEMU's, the controller is a node of the rig on the same network. The image is built here without the
driver, which takes long; HPC_COMPUTE_TEST_IMAGE names another, such as one that ``./run image`` left.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rig import environment, inventory, ssh, vm
from rig.node import Node
from rig.paths import VENV
from rig.process import run, wait_for

from image import build, disk

_GIVEN = os.environ.get("HPC_COMPUTE_TEST_IMAGE")
_VARIABLES = {
    # no time here to build it; ./run image does
    "nvidia_gpu_drivers_enabled": False,
    # NVIDIA's repository can't be reached from here
    "monitoring_stack_dcgm_enabled": False,
}
_BIOS = vm.Machine("it-boot-bios", "10.213.97.28")
_UEFI = vm.Machine("it-boot-uefi", "10.213.97.29", firmware="uefi")
#: What real nodes run with, control groups and all.
_SLURM_CONF = """\
ClusterName=boottest
SlurmctldHost=it-boot-ctl(10.213.97.47)
SlurmctldParameters=enable_configless
SlurmUser=slurm
AuthType=auth/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmdDebug=debug
SelectType=select/cons_tres
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup,task/affinity
ReturnToService=2
MaxNodeCount=8
PartitionName=main Nodes=ALL Default=YES State=UP
"""
_CGROUP_CONF = "CgroupPlugin=cgroup/v2\nConstrainCores=yes\nConstrainRAMSpace=yes\n"
#: Of a first boot without hardware virtualisation, on a machine that does something else as well.
_PATIENCE = 600


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if _GIVEN:
        return Path(_GIVEN).absolute()
    folder = tmp_path_factory.mktemp("image")
    variables = folder / "variables.json"
    variables.write_text(json.dumps(_VARIABLES), encoding="utf-8")
    build.build(build.Wanted(folder / "small.qcow2", disk_size="4G", variables=[variables]))
    return folder / "small.qcow2"


@pytest.fixture(scope="module")
def controller() -> Iterator[Node]:
    """A controller that serves its configuration and has never heard of the machines."""
    node = Node("it-boot-ctl", "10.213.97.47", image="controller")
    node.up()
    try:
        (node.root / "etc/slurm/slurm.conf").write_text(_SLURM_CONF)
        (node.root / "etc/slurm/cgroup.conf").write_text(_CGROUP_CONF)
        with (node.root / "etc/hosts").open("a") as hosts:
            hosts.writelines(f"{machine.ip} {machine.name}\n" for machine in (_BIOS, _UEFI))
        node.run(["install", "-d", "-o", "slurm", "-g", "slurm", "/var/lib/slurm/slurmctld"])
        node.run(["systemctl", "restart", "munge.service", "slurmctld.service"])
        yield node
    finally:
        node.down()


@pytest.fixture(scope="module")
def machines(image: Path, controller: Node) -> Iterator[dict[str, vm.Machine]]:
    """Both, booted for the first time at the same time, by firmware."""
    key = base64.b64encode((controller.root / "etc/munge/munge.key").read_bytes()).decode("ascii")
    told = f"controllers = {controller.ip}\nmunge_key = {key}\ndynamic = yes\n"
    user_data = {
        "disable_root": False,
        "users": [
            {"name": "root", "ssh_authorized_keys": [ssh.KEY.with_suffix(".pub").read_text(encoding="ascii").strip()]}
        ],
        "write_files": [
            {"path": "/etc/hpc-compute/join.conf", "permissions": "0600", "content": told},
            # who asks until a machine answers is taken for an attacker otherwise
            {"path": "/etc/ssh/sshd_config.d/test.conf", "content": "PerSourcePenalties no\nUseDNS no\n"},
        ],
    }
    # JSON is YAML
    seed = {"user-data": f"#cloud-config\n{json.dumps(user_data)}\n"}
    with ExitStack() as stack:
        yield {one.firmware: stack.enter_context(vm.started(one, image, seed)) for one in (_BIOS, _UEFI)}


def state_of(controller: Node, machine: vm.Machine) -> str:
    said = controller.run(["scontrol", "-o", "show", "node", machine.name], check=False).stdout
    found = re.search(r" State=(\S+)", said)
    return found[1] if found else ""


def seconds_of_kernel(machine: vm.Machine, since: float) -> float:
    """From the start of its kernel to *since*, both on the clock of this machine, which the guest's was set by."""
    booted = re.search(r"^btime (\d+)$", machine.run(["cat", "/proc/stat"]).stdout, flags=re.MULTILINE)
    assert booted
    return since - int(booted[1])


def test_both_boot_and_register(machines: dict[str, vm.Machine], controller: Node) -> None:
    start = time.monotonic()
    registered: dict[str, float] = {}

    def all_are_idle() -> bool:
        for firmware, machine in machines.items():
            machine.check()
            if firmware not in registered and state_of(controller, machine).startswith("IDLE"):
                registered[firmware] = time.time()
        return len(registered) == len(machines)

    wait_for("both machines to register", all_are_idle, seconds=_PATIENCE, every=1)
    for firmware, machine in machines.items():
        assert machine.wait_until_up(_PATIENCE) == "running", machine.run(["systemctl", "--failed"]).stdout
        kernel = seconds_of_kernel(machine, registered[firmware])
        print(
            f"{firmware}: registered {kernel:.0f} s after its kernel started; {time.monotonic() - start:.0f} s in all"
        )
        print(machine.run(["systemd-analyze", "time"]).stdout)
        print(machine.run(["systemd-analyze", "critical-chain", "--no-pager", "slurmd.service"]).stdout)


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_no_unit_failed_and_the_firmware_is_what_it_should_be(
    machines: dict[str, vm.Machine], firmware: vm.Firmware
) -> None:
    machine = machines[firmware]
    assert machine.wait_until_up(_PATIENCE) == "running"
    assert machine.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""
    booted_by_uefi = machine.run(["test", "-d", "/sys/firmware/efi"], check=False).returncode == 0
    assert booted_by_uefi == (firmware == "uefi")
    if firmware == "uefi":
        variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        assert machine.run(["od", "-An", "-tu1", "-j4", variable]).stdout.strip() == "1", "Secure Boot is off"
    said = machine.run(["journalctl", "--boot", "--unit=hpc-compute-join", "--output=cat"]).stdout
    assert "node-join: told of 10.213.97.47: written" in said
    # the disk of the image is grown to that of the machine, and the key is munge's alone
    assert machine.run(["stat", "-c", "%U %a", "/etc/munge/munge.key"]).stdout.strip() == "munge 400"


def test_each_is_a_machine_of_its_own(machines: dict[str, vm.Machine]) -> None:
    seen: dict[str, set[str]] = {"machine id": set(), "host keys": set(), "random seed": set()}
    for machine in machines.values():
        machine.wait_until_up(_PATIENCE)
        seen["machine id"].add(machine.run(["cat", "/etc/machine-id"]).stdout.strip())
        seen["host keys"].add(machine.run(["sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub"]).stdout)
        seen["random seed"].add(machine.run(["sha256sum", "/var/lib/systemd/random-seed"]).stdout)
    assert {name: len(values) for name, values in seen.items()} == dict.fromkeys(seen, len(machines))
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in seen["machine id"])
    assert all("ssh-ed25519 " in one for one in seen["host keys"])


def test_a_job_has_only_what_it_asked_for(machines: dict[str, vm.Machine], controller: Node) -> None:
    """With the control groups that real nodes have, which a container can't show."""
    machine = machines["bios"]
    wait_for(f"{machine.name} to be idle", lambda: state_of(controller, machine) == "IDLE+DYNAMIC_NORM", seconds=60)
    look = "nproc; cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/../memory.max"
    words = ["srun", f"--nodelist={machine.name}", "--chdir=/tmp", "--cpus-per-task=1", "--mem=100", "sh", "-c", look]
    assert controller.run(words, timeout=120).stdout.split() == ["1", str(100 << 20)]


def test_the_next_boot_is_no_first_one(machines: dict[str, vm.Machine], controller: Node) -> None:
    machine = machines["bios"]
    identity = ["sh", "-c", "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub"]
    before = machine.run(identity).stdout
    boot = machine.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    machine.run(["systemctl", "reboot"], check=False)  # the connection may end before the answer

    def is_back() -> bool:
        done = machine.run(["cat", "/proc/sys/kernel/random/boot_id"], check=False)
        return done.returncode == 0 and done.stdout != boot

    wait_for(f"{machine.name} to boot again", is_back, seconds=_PATIENCE, every=1)
    assert machine.wait_until_up(_PATIENCE) == "running"
    assert machine.run(identity).stdout == before
    wait_for(f"{machine.name} to be idle", lambda: state_of(controller, machine) == "IDLE+DYNAMIC_NORM", seconds=120)


#: What a node that is made from an image still lacks: the cluster's name, key and configuration, and to be started.
_IDENTITY = {
    "Write gres.conf for the GPUs that are here",
    "Install the cluster's munge key",
    "Run munge with this key",
    "Make the directory of slurmd's state",
    "Write cgroup.conf",
    "Write slurm.conf",
    "Write slurmd's options",
    "Restart slurmd",
}


def test_the_roles_find_nothing_to_install_on_a_node_made_from_it(image: Path, tmp_path: Path) -> None:
    node, controller = Node("it-boot-live", "10.213.97.27"), Node("it-boot-ctl", "10.213.97.47", image="controller")
    with disk.mounted(image, tmp_path) as root:
        try:
            # a container has no disk of its own and no seed for cloud-init
            node.up(layers=(root,), files={"etc/fstab": "", "etc/cloud/cloud-init.disabled": ""})
            hosts = inventory.write(tmp_path / "inventory", controller, [node])
            variables = {
                **node.connection("root"),
                **_VARIABLES,
                "hpc_hosts": node.name,
                "monitoring_stack_enabled": True,
            }
            (tmp_path / "variables.json").write_text(json.dumps(variables))
            for changes in (_IDENTITY, set()):
                said = play(hosts, "hpc.compute.node", "--extra-vars", f"@{tmp_path}/variables.json")
                tasks = re.split(r"^(?:TASK|RUNNING HANDLER) \[", said, flags=re.MULTILINE)
                changed = {task.partition("]")[0].rpartition(" : ")[2] for task in tasks if "\nchanged: [" in task}
                assert changed == changes, said
        finally:
            node.down()


def play(hosts: Path, *words: str) -> str:
    """Run a playbook that must not fail; what it said."""
    command: list[str | Path] = [VENV / "bin/ansible-playbook", "-i", hosts, *words]
    return run(command, env={**environment.variables(), "ANSIBLE_NOCOLOR": "1"}, timeout=300).stdout


def test_nothing_of_a_machine_is_in_the_image(image: Path, machines: dict[str, vm.Machine], tmp_path: Path) -> None:
    """After machines ran from it: they write to disks of their own."""
    with disk.mounted(image, tmp_path) as root:
        build.verify(root)
        assert run(["cat", root / "etc/machine-id"]).stdout == ""
        assert list((root / "etc/ssh").glob("ssh_host_*")) == []
        manifest = json.loads((root / "usr/share/hpc-compute/manifest.json").read_text(encoding="utf-8"))
        assert manifest["packages"]["slurmd"]
        assert manifest["kernels"] == [path.name for path in (root / "usr/lib/modules").iterdir()]
