# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Slurm whose node gets faults: it is drained for them, by its own programs, and for nothing else."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rig import inventory
from rig.node import Node
from rig.process import wait_for

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
_LOG = "/var/log/kernel.test"
_MARKER = "hpc-compute health: "
_SETTINGS = {
    # A container sees no kernel log.
    "kernel_log": _LOG,
    "checks": {"clock": "off"},
    "resume": ["driver", "gpus", "ecc"],
    "epilog_wait": 2,
}
_ENVIRONMENT = {
    **os.environ,
    "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
    "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
    "ANSIBLE_NOCOLOR": "1",
}


@dataclass
class Cluster:
    controller: Node
    node: Node
    inventory: Path

    def play(self, playbook: str, *words: str) -> tuple[dict[str, int], str]:
        """Run a playbook; the recap's numbers for the compute node and all that was said."""
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", self.inventory, playbook, *words],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        recap = re.search(rf"^{self.node.name} +: (.*)$", done.stdout, re.MULTILINE)
        numbers = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1] if recap else "")}
        return numbers, done.stdout + done.stderr

    def run(self, script: str, check: bool = True) -> str:
        return self.node.run(["sh", "-ec", script], check=check).stdout

    def exists(self, path: str) -> bool:
        return self.node.run(["test", "-e", path], check=False).returncode == 0

    def emulator(self, words: str) -> str:
        return self.run(f"cd /opt; PYTHONPATH=/opt/emulated-gpu python3 -m emulator {words}")

    def settings(self, **changes: Any) -> None:
        """Other settings for a while; without *changes* those of the role again."""
        text = json.dumps({**_SETTINGS, **changes})
        self.run(f"echo {shlex.quote(text)} > /etc/hpc-compute/node-health.json")

    def state(self) -> tuple[str, str]:
        """State and reason, as the controller has them."""
        said = self.run(f"scontrol show node {self.node.name} --json")
        (entry,) = json.loads(said)["nodes"]
        return "+".join(sorted(entry["state"])), entry["reason"]

    def reason(self) -> str:
        state, reason = self.state()
        return reason if "DRAIN" in state else ""

    def wait_for_reason(self, words: str) -> str:
        """Wait until the node is drained for this by us."""
        wait_for(
            f"the node to be drained for {words}",
            lambda: bool(re.match(re.escape(_MARKER) + words, self.reason())),
            seconds=90,
        )
        return self.reason()

    def resume(self) -> None:
        self.run(f"scontrol update nodename={self.node.name} state=resume")
        wait_for("the node to be idle", lambda: self.state()[0] == "IDLE", seconds=90)

    def check(self) -> dict[str, Any]:
        """The program by hand, which drains nothing."""
        done = self.node.run(["node-health", "check", "--json"], check=False)
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == {"healthy": 0, "unhealthy": 10, "unknown": 11}[report["status"]]
        return report

    def journal(self, since: str = "-1h") -> str:
        return self.run(f"journalctl --no-pager --since={since} -t node-health -t slurm-prolog -t slurm-epilog -o cat")

    def xid(self, text: str, when: float | None = None) -> None:
        line = f"{time.time() if when is None else when:.6f} {self.node.name} kernel: NVRM: Xid {text}"
        self.run(f"echo {shlex.quote(line)} >> {_LOG}")

    def submit(self, script: str, *options: str) -> str:
        """Submit a batch job as an ordinary user; its number. Its output is in /tmp/out.NUMBER."""
        words = shlex.join(["sbatch", "--parsable", "--chdir=/tmp", "--output=/tmp/out.%j", *options])
        quoted = shlex.quote(f"#!/bin/sh\n{script}\n")
        return self.run(f"printf %s {quoted} | runuser -u user -- {words}").strip()

    def job(self, number: str) -> tuple[str, int]:
        """State and how often it was given back to the queue."""
        said = self.run(f"scontrol show job {number}")
        state, restarts = re.search(r"JobState=(\w+)", said), re.search(r"Restarts=(\d+)", said)
        assert state is not None
        assert restarts is not None
        return state[1], int(restarts[1])

    def output(self, number: str) -> str:
        """What the job wrote, once it has ended well."""
        wait_for(f"job {number} to end", lambda: self.job(number)[0] == "COMPLETED", seconds=90)
        return self.run(f"cat /tmp/out.{number}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    controller = Node("it-health-ctl", "10.213.97.88", image="controller")
    node = Node("it-health", "10.213.97.89")
    folder = tmp_path_factory.mktemp("health")
    try:
        controller.up()
        node.up(gpus="h100-80,h100-80=1g.10gb*2")
        path = inventory.write(folder / "inventory", controller, [node])
        site = folder / "50-site.sh"
        site.write_text('#!/bin/sh\necho "site program for job $SLURM_JOB_ID"\n')
        data = json.loads(path.read_text())
        data["all"]["children"]["compute"]["vars"] |= {
            "slurm_compute_node_health_interval": 3,
            "slurm_compute_node_health_settings": _SETTINGS,
            "slurm_compute_prolog_programs": [str(site)],
        }
        path.write_text(json.dumps(data))
        yield Cluster(controller, node, path)
    finally:
        node.down()
        controller.down()


def test_the_role_installs_it_and_the_node_is_healthy(cluster: Cluster) -> None:
    recap, said = cluster.play("hpc.compute.node", "--check", "--diff", "-e", "hpc_hosts=compute")
    assert (recap["failed"], recap["unreachable"]) == (0, 0), said
    assert not (cluster.node.root / "usr/sbin/node-health").exists(), "check mode changed the machine"
    recap, said = cluster.play("hpc.compute.node", "-e", "hpc_hosts=compute")
    assert recap["failed"] == 0, said
    cluster.run(f"touch {_LOG}; useradd --create-home user")
    cluster.controller.run(["useradd", "--create-home", "user"])
    _, said = cluster.play(str(REPO / "tests/rig/controller.yml"))
    assert "failed=0" in said, said
    assert not re.search(r"(failed|unreachable)=[1-9]", said), said
    wait_for("the node to register", lambda: cluster.state()[0] == "IDLE", seconds=60)
    recap, said = cluster.play("hpc.compute.node", "-e", "hpc_hosts=compute")
    assert (recap["failed"], recap["changed"]) == (0, 0), said
    report = cluster.check()
    assert report["status"] == "healthy", report
    assert {one["name"]: one["status"] for one in report["checks"]}["clock"] == "off"
    wait_for(
        "a check by Slurm",
        lambda: cluster.node.run(["test", "-s", "/run/hpc-compute/node-health.json"], check=False).returncode == 0,
        seconds=60,
    )


def test_a_job_sees_nothing_of_it(cluster: Cluster) -> None:
    done = cluster.node.run(["runuser", "-u", "user", "--", "srun", "--chdir=/", "--gres=gpu:1", "echo", "hello"])
    assert (done.stdout, done.stderr) == ("hello\n", "")
    number = cluster.submit("echo hello; srun echo task", "--gres=gpu:1")
    assert cluster.output(number) == "hello\ntask\n"
    assert f"site program for job {number}" in cluster.journal()


def test_an_xid_drains_until_it_is_acknowledged(cluster: Cluster) -> None:
    address = "0000:1b:00"  # of the first emulated GPU
    cluster.xid(f"(PCI:{address}): 13, pid=1, Graphics SM Warp Exception")
    cluster.xid(f"(PCI:{address}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    reason = cluster.wait_for_reason("xid: ")
    assert reason == f"{_MARKER}xid: {address}.0: Xid 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    written = json.loads(cluster.run("cat /run/hpc-compute/node-health.json"))
    assert (written["schema"], written["status"], written["reason"]) == (1, "unhealthy", reason)
    assert "fault of xid: " in cluster.journal()
    assert f"node {cluster.node.name} drained: {reason}" in cluster.journal()
    cluster.run("node-health acknowledge")
    cluster.resume()
    time.sleep(7)  # two more checks
    assert cluster.state()[0] == "IDLE"


def test_a_drain_of_somebody_else_is_left_alone(cluster: Cluster) -> None:
    cluster.run(f"scontrol update nodename={cluster.node.name} state=drain reason='new fans'")
    cluster.emulator("memory-errors 0 --pending")
    wait_for(
        "the fault to be found",
        lambda: "drained by somebody else, so its reason stays" in cluster.journal(),
        seconds=60,
    )
    assert cluster.reason() == "new fans"
    cluster.emulator("memory-errors 0")
    time.sleep(7)
    assert cluster.reason() == "new fans", "a drain of somebody else was taken back"
    cluster.resume()


def test_a_memory_fault_drains_and_what_may_be_is_resumed(cluster: Cluster) -> None:
    cluster.emulator("memory-errors 0 --failed --uncorrected 2")
    reason = cluster.wait_for_reason("ecc: ")
    assert reason.endswith("the board needs service (1 more)"), reason
    cluster.emulator("memory-errors 0")
    wait_for("the node to be resumed", lambda: cluster.state()[0] == "IDLE", seconds=60)


def test_a_driver_that_hangs_does_not_hang_slurm(cluster: Cluster) -> None:
    cluster.settings(driver_timeout=4)
    cluster.emulator("fault 'nvmlInit*' --hang")
    cluster.wait_for_reason("driver: the NVIDIA driver does not answer")
    assert cluster.run("systemctl is-active slurmd").strip() == "active"
    cluster.emulator("faults clear")
    cluster.settings()
    wait_for("the node to be resumed", lambda: cluster.state()[0] == "IDLE", seconds=60)


def test_a_job_whose_device_is_missing_goes_back_to_the_queue(cluster: Cluster) -> None:
    cluster.settings(checks={"clock": "off", "devices": "off"})  # the prolog is to find it
    cluster.run("mv /dev/nvidia0 /dev/lost0")
    number = cluster.submit("echo hello", "--gres=gpu:nvidia_h100_80gb_hbm3:1")
    reason = cluster.wait_for_reason("prolog: ")
    assert reason == f"{_MARKER}prolog: device files are missing: /dev/nvidia0"
    wait_for("the job to be queued again", lambda: cluster.job(number) == ("PENDING", 1), seconds=90)
    assert "held" not in cluster.run(f"squeue -h -j {number} -o %r").lower()
    assert not cluster.exists(f"/tmp/out.{number}")
    cluster.run("mv /dev/lost0 /dev/nvidia0")
    cluster.settings()
    cluster.resume()
    cluster.run(f"scontrol update jobid={number} starttime=now")  # Slurm gives a node two minutes
    assert cluster.output(number) == "hello\n"


def test_memory_that_a_job_left_in_use_drains(cluster: Cluster) -> None:
    slice_type = "nvidia_h100_80gb_hbm3_1g.10gb"
    uuid = cluster.output(cluster.submit("echo $CUDA_VISIBLE_DEVICES", f"--gres=gpu:{slice_type}:1")).strip()
    shown = json.loads(cluster.emulator("show --json"))["gpus"][1]["gpu_instances"]
    mine = next(one["id"] for one in shown if one["compute_instances"][0]["uuid"] == uuid)
    other = next(one["id"] for one in shown if one["compute_instances"][0]["uuid"] != uuid)
    # Another slice's memory, and that of the process that holds it, are no matter of this job's.
    sleeper = cluster.run("setsid sleep 600 > /dev/null 2>&1 & echo $!").strip()
    cluster.emulator(f"busy 1/{other} {sleeper}")
    cluster.emulator(f"leak 1/{other} 5000")
    assert cluster.output(cluster.submit("echo $CUDA_VISIBLE_DEVICES", f"--gres=gpu:{slice_type}:1")).strip() == uuid
    assert cluster.reason() == ""
    cluster.emulator(f"leak 1/{mine} 3000")
    number = cluster.submit("true", f"--gres=gpu:{slice_type}:1")
    reason = cluster.wait_for_reason("epilog: ")
    assert reason.startswith(f"{_MARKER}epilog: {uuid}: 3004 MiB are in use after job {number}"), reason
    assert cluster.job(number)[0] == "COMPLETED"
    for one in (mine, other):
        cluster.emulator(f"leak 1/{one} 0")
    cluster.run(f"kill {sleeper}")
    cluster.resume()


def test_processes_that_a_job_left_are_killed_where_that_is_wanted(cluster: Cluster) -> None:
    cluster.settings(epilog_kill=True)
    script = "setsid sleep 600 > /dev/null 2>&1 & echo $!; sleep 3"
    number = cluster.submit(script, "--gres=gpu:nvidia_h100_80gb_hbm3:1")
    wait_for("its process", lambda: cluster.run(f"cat /tmp/out.{number}", check=False).strip() != "", seconds=60)
    left = cluster.run(f"cat /tmp/out.{number}").strip()
    cluster.emulator(f"busy 0 {left}")
    bystander = cluster.run("runuser -u user -- sh -c 'sleep 600 > /dev/null 2>&1 & echo $!'").strip()
    cluster.emulator(f"busy 1 {bystander}")
    cluster.output(number)
    wait_for(
        "the process to be gone",
        lambda: not cluster.exists(f"/proc/{left}"),
        seconds=60,
    )
    cluster.run(f"kill {bystander}")  # it was left alone
    wait_for("the node to be idle", lambda: cluster.state()[0] == "IDLE", seconds=60)
    cluster.settings()


def test_a_broken_program_costs_neither_jobs_nor_nodes(cluster: Cluster) -> None:
    broken = "#!/usr/bin/python3 -I\nraise RuntimeError(7)\n"
    cluster.run(f"cp /usr/sbin/node-health /root/; printf %s {shlex.quote(broken)} > /usr/sbin/node-health")
    assert cluster.output(cluster.submit("echo hello", "--gres=gpu:1")) == "hello\n"
    cluster.run("rm /usr/sbin/node-health")
    assert cluster.output(cluster.submit("echo hello", "--gres=gpu:1")) == "hello\n"
    time.sleep(5)
    assert cluster.state()[0] == "IDLE"
    journal = cluster.journal()
    for words in (
        "prolog: exit code 1, taken",
        "epilog: exit code 1, taken",
        "prolog: exit code 127",
        "RuntimeError: 7",
    ):
        assert words in journal
    cluster.run("cp /root/node-health /usr/sbin/")
    # Settings that mean nothing are no fault of the node either.
    cluster.run("cp /etc/hpc-compute/node-health.json /root/; echo '{\"disk\": 1}' > /etc/hpc-compute/node-health.json")
    wait_for("the journal to tell", lambda: "expected only the keys" in cluster.journal(), seconds=60)
    assert cluster.state()[0] == "IDLE"
    cluster.run("cp /root/node-health.json /etc/hpc-compute/")


def test_the_log_of_slurmd_is_rotated(cluster: Cluster) -> None:
    log = "/var/log/slurm/slurmd.log"
    assert cluster.run("systemctl is-enabled logrotate.timer").strip() == "enabled"
    cluster.run("logrotate --force /etc/logrotate.d/slurmd")
    opened = "readlink /proc/$(systemctl show -P MainPID slurmd)/fd/*"
    wait_for("slurmd to begin a new log", lambda: log in cluster.run(opened).splitlines(), seconds=60)
    assert cluster.exists(f"{log}.1")
