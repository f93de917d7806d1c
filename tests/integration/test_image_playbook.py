# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image build leaves: all of it installed and enabled, nothing running, nothing that is one machine's own."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import nspawn
from rig.node import Node
from rig.process import wait_for

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
#: As for live nodes, so that a variable of the inventory that must not reach an image would show.
_SECRET = "c2VjcmV0" * 12
_VARIABLES = {
    "slurm_compute_cluster_name": "imagetest",
    "slurm_compute_controllers": ["imagectl"],
    "slurm_compute_munge_key": _SECRET,
    # a second run must find the machine as the first one left it, logs and all
    "image_seal_enabled": False,
    # no kernel here to build it for; its own test has that
    "nvidia_gpu_drivers_enabled": False,
    # NVIDIA's repository can't be reached from here
    "monitoring_stack_dcgm_enabled": False,
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Node]:
    """A bare Debian machine without GPU, as a builder boots it."""
    node = Node("it-image", "10.213.97.43")
    node.up(gpus=None)
    try:
        yield node
    finally:
        node.keep_packages()
        node.down()


def build(node: Node, folder: Path, *words: str) -> tuple[dict[str, int], str]:
    """Run ``hpc.compute.image``; the recap's numbers and all that was said."""
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": {node.name: {**node.connection(), **_VARIABLES}}}}))
    done = subprocess.run(
        [_VENV / "bin/ansible-playbook", "-i", inventory, "hpc.compute.image", *words],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
            "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    recap = {key: int(value) for key, value in re.findall(r"(ok|changed|failed|unreachable)=(\d+)", done.stdout)}
    return recap, done.stdout + done.stderr


def test_an_image_has_all_but_an_identity(machine: Node, tmp_path: Path) -> None:
    recap, said = build(machine, tmp_path, "--check", "--diff")
    assert (recap["failed"], recap["unreachable"]) == (0, 0), said
    assert not (machine.root / "etc/slurm").exists(), "check mode changed the machine"

    recap, said = build(machine, tmp_path)
    assert recap["failed"] == 0, said
    for unit in ("munge", "slurmd", "prometheus-node-exporter"):
        assert machine.run(["systemctl", "is-enabled", unit], check=False).stdout.strip() == "enabled"
        assert machine.run(["systemctl", "is-active", unit], check=False).stdout.strip() == "inactive"
    slurmd = machine.run(["slurmd", "-V"]).stdout
    assert re.match(r"slurm(-wlm)? \d+\.", slurmd), slurmd
    assert "pmix" in machine.run(["sh", "-c", "mpirun --version && ls /usr/lib/*/slurm-wlm/mpi_pmix*.so"]).stdout
    etc = machine.root / "etc"
    assert not (etc / "munge/munge.key").exists(), "an image carries a munge key"
    assert not (etc / "slurm/slurm.conf").exists()
    assert not (etc / "slurm/gres.conf").exists()
    assert not (machine.root / "usr/sbin/policy-rc.d").exists()
    named = machine.run(["grep", "-rlE", "imagetest|imagectl|c2VjcmV0", "/etc"], check=False).stdout
    assert not named, f"names of one cluster in an image: {named}"

    recap, said = build(machine, tmp_path)
    assert (recap["failed"], recap["changed"]) == (0, 0), said


_CONTROLLER_CONF = """\
ClusterName=imagetest
SlurmctldHost=it-image-ctl(10.213.97.47)
SlurmctldParameters=enable_configless
SlurmUser=slurm
AuthType=auth/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/linux
ReturnToService=2
MaxNodeCount=8
PartitionName=main Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def controller(machine: Node) -> Iterator[Node]:
    """A controller that serves its configuration and has never heard of the machine."""
    node = Node("it-image-ctl", "10.213.97.47", image="controller")
    node.up()
    try:
        (node.root / "etc/slurm/slurm.conf").write_text(_CONTROLLER_CONF)
        # no control groups in a container
        (node.root / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=disabled\n")
        with (node.root / "etc/hosts").open("a") as hosts:
            hosts.write(f"{machine.ip} {machine.name}\n")
        node.run(["install", "-d", "-o", "slurm", "-g", "slurm", "/var/lib/slurm/slurmctld"])
        node.run(["systemctl", "restart", "munge.service", "slurmctld.service"])
        yield node
    finally:
        node.down()


def reboot(node: Node) -> None:
    """Take its power away and give it back."""
    nspawn.kill(node.name)
    nspawn.boot(node.name, node.root, node.folder / "console.log")
    wait_for(f"{node.name} to answer", lambda: node.run(["true"], check=False, timeout=20).returncode == 0, seconds=60)
    node.run(["systemctl", "is-system-running", "--wait"], check=False)


def assert_keys_and_an_address_without_cloud_init(machine: Node) -> None:
    """The rig has cloud-init's part in a node: keys and an address of its own. They are put aside for a moment."""
    script = """
        set -eu
        mkdir /root/keys
        mv /etc/ssh/ssh_host_* /root/keys
        systemctl restart sshd-keygen.service
        ls /etc/ssh
        rm /etc/ssh/ssh_host_*
        mv /root/keys/* /etc/ssh
        systemctl restart hpc-compute-network.service
        test ! -e /run/systemd/network/99-hpc-compute-dhcp.network
        mkdir -p /run/systemd/network
        mv /etc/systemd/network/* /run/systemd/network
        mkdir /run/cloud-init
        touch /run/cloud-init/enabled
        systemctl restart hpc-compute-network.service
        test ! -e /run/systemd/network/99-hpc-compute-dhcp.network
        rm /run/cloud-init/enabled
        systemctl restart hpc-compute-network.service
        networkctl reload
        ls /run/systemd/network
        networkctl status host0
        mv /run/systemd/network/10-* /etc/systemd/network
    """
    said = machine.run(["sh", "-c", script]).stdout
    assert re.search(r"^ssh_host_ed25519_key$", said, flags=re.MULTILINE), said
    assert "\n99-hpc-compute-dhcp.network\n" in said, said
    assert re.search(r"Network File: /\S*/10-rig.network", said), f"the lower number counts: {said}"


def test_a_machine_made_from_it_joins_when_it_is_told(machine: Node, controller: Node) -> None:
    def is_idle() -> bool:
        return " State=IDLE" in controller.run(["scontrol", "-o", "show", "nodes"], check=False).stdout

    reboot(machine)
    said = machine.run(["journalctl", "--boot", "--unit=hpc-compute-join", "--output=cat"]).stdout
    assert "was not told: controllers, munge_key" in said
    assert "was not told: controllers, munge_key" in (machine.folder / "console.log").read_text(errors="replace")
    assert machine.run(["systemctl", "is-active", "slurmd"], check=False).stdout.strip() == "inactive"
    assert machine.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == ""

    wrong = "controllers = https://ctl\nmunge_key = secret?\n"
    machine.run(["sh", "-c", "umask 077; cat > /etc/hpc-compute/join.conf"], stdin=wrong)

    def console() -> str:
        return (machine.folder / "console.log").read_text(errors="replace")

    wait_for("what is wrong to be said", lambda: "this machine joins as soon as it can" in console(), seconds=60)
    assert "munge_key of /etc/hpc-compute/join.conf: expected base64" in console()
    assert "secret?" not in console()
    assert machine.run(["systemctl", "is-active", "slurmd"], check=False).stdout.strip() == "inactive"

    key = base64.b64encode((controller.root / "etc/munge/munge.key").read_bytes()).decode("ascii")
    told = f"controllers = {controller.ip}\nmunge_key = {key}\ndynamic = yes\n"
    machine.run(["sh", "-c", "umask 077; cat > /etc/hpc-compute/join.conf"], stdin=told)
    wait_for(f"{machine.name} to join", is_idle, seconds=60, every=0.5)
    assert "Partitions=main" in controller.run(["scontrol", "-o", "show", "node", machine.name]).stdout
    said = controller.run(["srun", "--nodes=1", "--chdir=/tmp", "hostname"]).stdout
    assert said.strip() == machine.name
    assert key not in machine.run(["journalctl", "--boot", "--output=cat"]).stdout
    assert machine.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout == "", "the failure of before stayed"

    assert_keys_and_an_address_without_cloud_init(machine)

    controller.run(["scontrol", "delete", f"nodename={machine.name}"])
    reboot(machine)
    wait_for(f"{machine.name} to be back", is_idle, seconds=60, every=0.5)
