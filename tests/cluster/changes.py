# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change layouts of a running cluster with the playbook, and get in its way on purpose."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import environment, nspawn
from rig.node import Node
from rig.paths import REPO, VENV
from rig.process import RigError, wait_for

Cut = Mapping[str, int] | None
#: What the boards of the cluster can be cut into; ``None`` is a whole GPU.
CUTS: Mapping[str, Sequence[Cut]] = {
    "*H100*": (None, {"1g.10gb": 7}, {"3g.40gb": 2}, {"2g.20gb": 3, "1g.10gb": 1}, {"3g.40gb": 1, "1g.10gb": 3}),
    "*A100*": (None, {"1g.5gb": 7}, {"3g.20gb": 2}, {"2g.10gb": 3, "1g.5gb": 1}, {"3g.20gb": 1, "1g.5gb": 3}),
    "*A30*": (None, {"1g.6gb": 4}, {"2g.12gb": 2}, {"2g.12gb": 1, "1g.6gb": 2}),
}
#: Ampere boards change their mode with a reset only, for which the driver's own tool is called.
_NVIDIA_SMI = """\
#!/bin/sh
# Stands for nvidia-smi's one use here: nvidia-smi --gpu-reset -i ADDRESS
cd /opt/emulated-gpu && exec python3 -S -m emulator reset "$3"
"""
_DRAINED_BY_US = re.compile(r"State=\S*DRAIN\S* .*Reason=hpc\.compute: ")


@dataclass(frozen=True)
class Run:
    """How a run of the playbook went."""

    code: int
    said: str
    seconds: float

    @property
    def why(self) -> str:
        """The failures of its tasks, each on a line."""
        found = re.findall(r"(?m)^\[ERROR\]: (.*)$|^(fatal: \[\S+\]: UNREACHABLE.*)$", self.said)
        return "\n  ".join("".join(one)[:300] for one in found) or "it said nothing"


class Cluster:
    """A controller and compute nodes of the rig with an Ansible inventory, *hosts*."""

    def __init__(
        self, controller: Node, compute: Sequence[Node], hosts: Path, variables: Mapping[str, Any] | None = None
    ) -> None:
        self.controller = controller
        self.compute = tuple(compute)
        self.hosts = hosts
        self.variables = variables or {}
        self.running: subprocess.Popen[str] | None = None

    def install_reset(self) -> None:
        """Give the nodes what stands for ``nvidia-smi``."""
        for node in self.compute:
            path = node.root / "usr/local/bin/nvidia-smi"
            path.write_text(_NVIDIA_SMI)
            path.chmod(0o755)

    def change_layout(self, *words: str, **variables: Any) -> Run:
        """Run the playbook ``hpc.compute.gpu_layout``."""
        return self.play("hpc.compute.gpu_layout", *words, **{"gpu_layout_change_job_timeout": 120, **variables})

    def play(self, playbook: str, *words: str, **variables: Any) -> Run:
        """Run a playbook of the collection with *variables* and those of the cluster."""
        values = {"hpc_hosts": "compute", **self.variables, **variables}
        begin = time.monotonic()
        with subprocess.Popen(
            [
                *(VENV / "bin/ansible-playbook", "-i", self.hosts, playbook),
                *("-e", json.dumps(values), *words),
            ],
            env={**environment.variables(), "ANSIBLE_NOCOLOR": "1"},
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that all of its processes can be killed together
        ) as self.running:
            said, _ = self.running.communicate(timeout=600)
        return Run(self.running.returncode, said, time.monotonic() - begin)

    def state(self, node: Node) -> str:
        """The node as ``scontrol show node`` prints it, on one line; empty while no controller answers."""
        return self.controller.run(["scontrol", "--oneliner", "show", "node", node.name], check=False).stdout

    def gres(self, node: Node) -> dict[str, int]:
        """GPU types that the controller has for the node, with their counts."""
        found = re.search(r" Gres=(\S+)", self.state(node))
        return {kind: int(n) for kind, n in re.findall(r"gpu:([^:(,\s]+):(\d+)", found[1])} if found else {}

    def is_under_change(self, node: Node) -> bool:
        """Whether it is drained by us and its slurmd is stopped: no job can be there."""
        return (
            bool(_DRAINED_BY_US.search(self.state(node)))
            and node.run(["systemctl", "--quiet", "is-active", "slurmd.service"], check=False, timeout=30).returncode
            != 0
        )

    def reboot(self, node: Node) -> None:
        """Take its power away and give it back."""
        node.run(["sync"], check=False)
        nspawn.kill(node.name)
        nspawn.boot(node.name, node.root, node.folder / "console.log")

    def wait_until_in_service(self, seconds: float = 60) -> None:
        """Wait until all nodes take jobs.

        :raises RigError: one does not; the text says how it stands.
        """
        for node in self.compute:

            def works(node: Node = node) -> bool:
                return re.search(r" State=(IDLE|MIXED|ALLOCATED)[ +](?!.*DRAIN)", self.state(node)) is not None

            try:
                wait_for(f"{node.name} to be in service", works, seconds, every=0.5)
            except RigError as error:
                raise RigError(f"{error}: {self.state(node)}") from error


def layout(cuts: Mapping[str, Cut]) -> dict[str, Any]:
    """A layout in mig-parted's format: all boards of a kind in the same cut."""
    entries: list[dict[str, Any]] = []
    for board, cut in cuts.items():
        slices = {} if cut is None else {"mig-devices": dict(cut)}
        entries.append({"devices": [board], "mig-enabled": cut is not None, **slices})
    return {"version": "v1", "mig-configs": {"now": entries}}


def random_layout(dice: random.Random) -> dict[str, Any]:
    """A cut for each kind of board."""
    return layout({board: dice.choice(cuts) for board, cuts in CUTS.items()})


def restart_controller(cluster: Cluster, dice: random.Random, over: threading.Event) -> str:
    """Restart slurmctld at some moment of the change."""
    over.wait(dice.uniform(4, 25))
    cluster.controller.run(["systemctl", "restart", "slurmctld.service"])
    return "controller restarted"


def reboot_node(cluster: Cluster, dice: random.Random, over: threading.Event) -> str:
    """Power-cycle a node while its GPUs are changed, at some moment."""
    node = dice.choice(cluster.compute)
    while not over.wait(0.3):
        if cluster.is_under_change(node):
            over.wait(dice.uniform(0, 6))
            # again, as it may have been given back meanwhile: with jobs on it a reboot would kill them by right
            if over.is_set() or not cluster.is_under_change(node):
                break
            cluster.reboot(node)
            return f"{node.name} rebooted"
    return f"{node.name} had nothing to change"


def fail_apply(cluster: Cluster, dice: random.Random, over: threading.Event) -> str:
    """Let the driver of a node refuse an instance, once."""
    node = dice.choice(cluster.compute)
    fault = ["python3", "-S", "-m", "emulator", "fault", "nvmlDeviceCreateGpuInstance*", "--times", "1"]
    words = [*fault, "--error", "INSUFFICIENT_RESOURCES", "--skip", str(dice.randrange(3))]
    node.run(["sh", "-c", f"cd /opt/emulated-gpu && {' '.join(words).replace('*', chr(92) + '*')}"])
    over.wait()
    node.run(["sh", "-c", "cd /opt/emulated-gpu && python3 -S -m emulator faults clear"], check=False)
    return f"{node.name} refused an instance"


def kill_run(cluster: Cluster, dice: random.Random, over: threading.Event) -> str:
    """Kill the playbook itself in the middle of a change."""
    node = dice.choice(cluster.compute)
    while not over.wait(0.3):
        if cluster.is_under_change(node):
            over.wait(dice.uniform(0, 8))
            if over.is_set() or cluster.running is None:
                break
            os.killpg(cluster.running.pid, signal.SIGKILL)
            return f"the run was killed while {node.name} was changed"
    return f"{node.name} had nothing to change"


Disturbance = Callable[[Cluster, random.Random, threading.Event], str]
DISTURBANCES: Mapping[str, Disturbance | None] = {
    "none": None,
    "controller": restart_controller,
    "reboot": reboot_node,
    "fault": fail_apply,
    "killed": kill_run,
}


@dataclass(frozen=True)
class Round:
    """A change: *first* is the disturbed run, *again* the run that had to put things right, if it was needed."""

    first: Run
    again: Run | None
    what: str


def change(cluster: Cluster, dice: random.Random, wanted: Mapping[str, Any], disturbance: str, serial: int) -> Round:
    """Change all nodes, disturbed; where that fails, once more undisturbed, which must succeed.

    :raises RigError: it did not, or a node is not back in service.
    """
    variables = {"gpu_layout_config": dict(wanted), "gpu_layout_change_serial": serial}
    over = threading.Event()
    told = [""]
    disturb = DISTURBANCES[disturbance]
    errors: list[BaseException] = []

    def run_disturbance() -> None:
        try:
            told[0] = disturb(cluster, dice, over) if disturb else "undisturbed"
        except RigError as error:
            errors.append(error)

    thread = threading.Thread(target=run_disturbance)
    thread.start()
    try:
        first = cluster.change_layout(**variables)
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
    again = None
    if first.code != 0:
        if disturbance == "none":
            raise RigError(f"an undisturbed change failed:\n{first.said[-6000:]}")
        for node in cluster.compute:
            wait_for(f"{node.name} to answer", lambda node=node: _answers(node), 60)  # type: ignore[misc]
        again = cluster.change_layout(**variables)
        if again.code != 0:
            raise RigError(f"after '{told[0]}' the next run failed, too:\n{first.said[-6000:]}\n{again.said[-6000:]}")
    cluster.wait_until_in_service()
    return Round(first, again, told[0])


def _answers(node: Node) -> bool:
    return node.run(["true"], check=False, timeout=20).returncode == 0
