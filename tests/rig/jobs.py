# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm seen from its user: what a node offers, jobs on it, and the devices that each job was given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .base import USER
from .node import Node
from .process import RigError, indented, wait_for

_GRES = re.compile(r"gpu:([^:(,\s]+):(\d+)")
#: Small enough that many fit on a small machine.
_SIZE = "--mem=32M"
# A job that does not start within half a minute will not start by itself.
_AS_USER = ("runuser", "--user", USER, "--", "env", "--chdir=/tmp", "SLURM_IMMEDIATE=30")
# What each job's processes really see; run on the compute node, which needs nothing but Python for it
_LOOK = """
import json, pathlib
found = {}
for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        pairs = (entry.partition("=") for entry in path.read_bytes().decode(errors="replace").split(chr(0)))
    except OSError:  # it ended, or belongs to the kernel
        continue
    variables = {name: value for name, _, value in pairs}
    if variables.get("CUDA_VISIBLE_DEVICES") and "SLURM_JOB_ID" in variables:
        found[variables["SLURM_JOB_ID"]] = {
            "name": variables.get("SLURM_JOB_NAME", ""),
            "devices": variables["CUDA_VISIBLE_DEVICES"].split(","),
        }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Device:
    """A GPU or MIG device as a job names it in ``CUDA_VISIBLE_DEVICES``: its UUID and the files it needs."""

    uuid: str
    files: tuple[str, ...]


def wait_until_idle(controller: Node, name: str) -> None:
    """Wait until the node *name* has registered and takes jobs.

    :raises RigError: it did not within 30 s; the message carries what Slurm says about it.
    """

    def idle() -> bool:
        state = controller.run(["sinfo", "--noheader", "--nodes", name, "--format", "%T"], check=False).stdout.split()
        return state == ["idle"]

    try:
        wait_for(f"Slurm to call {name} idle", idle, seconds=30, every=0.2)
    except RigError as error:
        told = [
            controller.run(words, check=False)
            for words in (
                ["scontrol", "show", "node", name],
                ["journalctl", "--no-pager", "--lines=15", "--unit=slurmctld.service"],
            )
        ]
        raise RigError(f"{error}\n" + "\n".join(indented(done.stdout + done.stderr) for done in told)) from error


def offered(controller: Node, name: str) -> dict[str, int]:
    """GPU types that the node *name* registered, with their counts; empty for a node without GPUs."""
    text = controller.run(["scontrol", "--oneliner", "show", "node", name]).stdout
    gres = re.search(r" Gres=(\S+)", text)
    return {kind: int(count) for kind, count in _GRES.findall(gres[1])} if gres else {}


def run(controller: Node, words: list[str]) -> list[str]:
    """Run *words*, an ``srun`` command, as an ordinary user; return the lines it printed."""
    return controller.run([*_AS_USER, *words]).stdout.splitlines()


def srun(kind: str | None, *words: str) -> list[str]:
    """The command that runs *words* as a job on one device of type *kind*."""
    return ["srun", _SIZE, *_device(kind), *words]


def submit(controller: Node, kind: str | None, name: str) -> str:
    """Start a job that holds one device of type *kind* (or none) until it is cancelled, and return its number."""
    hold = ["--output=/dev/null", f"--job-name={name}", "--parsable", "--wrap", "exec sleep infinity"]
    return run(controller, ["sbatch", _SIZE, *_device(kind), *hold])[0].partition(";")[0]


def wait_until_running(controller: Node, numbers: list[str]) -> None:
    """Wait until all jobs *numbers* run.

    :raises RigError: one did not start within 30 s; the message carries the queue.
    """

    def running() -> bool:
        states = controller.run(["squeue", "--noheader", "--states=RUNNING", "--format", "%i"]).stdout.split()
        return set(numbers) <= set(states)

    try:
        wait_for("the jobs to run", running, seconds=30, every=0.2)
    except RigError as error:
        raise RigError(f"{error}\n{controller.run(['squeue', '--long'], check=False).stdout}") from error


def labels(node: Node, gpus: Mapping[str, Any]) -> dict[str, str]:
    """Device UUID -> ``job 7 train`` for every job that holds a device on *node* right now.

    :param gpus: the node's inventory, as the module ``gpu_info`` returns it.
    """
    known = devices(gpus)
    seen = json.loads(node.run(["python3", "-c", _LOOK]).stdout)
    return {
        known[device].uuid: f"job {number} {job['name']}".rstrip()
        for number, job in sorted(seen.items())
        for device in job["devices"]
        if device in known
    }


def devices(gpus: Mapping[str, Any]) -> dict[str, Device]:
    """What may stand in ``CUDA_VISIBLE_DEVICES`` -> the device: a whole GPU's number, a MIG device's UUID."""
    found = {}
    for gpu in gpus["gpus"]:
        if gpu["minor"] is not None:
            found[str(gpu["minor"])] = Device(gpu["uuid"], tuple(gpu["device_files"]))
        for instance in gpu["gpu_instances"]:
            for part in instance["compute_instances"]:
                found[part["uuid"]] = Device(part["uuid"], tuple(part["device_files"]))
    return found


def _device(kind: str | None) -> list[str]:
    return [f"--gres=gpu:{kind}:1"] if kind else []
