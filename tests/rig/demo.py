# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``./run demo``: from nothing to a Slurm GPU node with jobs on it, as a user would do it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import base, environment, inventory, jobs, play
from .node import Node, check_gpus
from .paths import REPO, STATE, VENV
from .process import RigError, log_for, run, wait_for
from .progress import heading, shown, started, step

DEFAULT_GPUS = "h100-80,h100-80=3g.40gb:2g.20gb:1g.10gb*2"
NODE = Node("demo-node", "10.213.97.11")
CONTROLLER = Node("demo-ctl", "10.213.97.10", image="controller")
_FOLDER = STATE / "demo"
_HOSTS = _FOLDER / "inventory/hosts.json"
_COLLECTIONS = _FOLDER / "collections"
_NODE_PLAYBOOK = ("hpc.compute.node", "-e", "hpc_hosts=compute")
_CONTROLLER_PLAYBOOK = REPO / "tests/rig/controller.yml"
_JOB_NAMES = ("train", "infer", "fold", "render", "notebook")
_MOST_JOBS = 12


def up(gpus: str, fresh: bool) -> None:
    """Everything, part by part. The node stays up.

    :raises RigError: a part failed; what is up by then stays, to be looked at.
    """
    start = started()
    check_gpus(gpus)
    _prepare(fresh)
    with ThreadPoolExecutor(max_workers=1) as beside:
        heading(f"A Debian 13 node with emulated GPUs: {gpus}")
        with step(f"Boot {NODE.name}"):
            NODE.up(gpus=gpus)
        # a fixture that nobody needs before there are jobs: it comes up while the node is being made
        controller = beside.submit(CONTROLLER.up)
        inventory.write(_HOSTS.parent, CONTROLLER, [NODE])
        heading("The collection, installed and run as a user would")
        _install_collection()
        _play_twice()
        heading("A Slurm controller (a fixture of the demo)")
        with step(f"Boot {CONTROLLER.name}, begun beside the playbook"):
            controller.result()
    with step("Start it with the node's slurm.conf and munge key") as running:
        play.playbook([_CONTROLLER_PLAYBOOK], _HOSTS, log_for("demo-controller"), running, _COLLECTIONS)
    with step(f"Wait until Slurm calls {NODE.name} idle"):
        jobs.wait_until_idle(CONTROLLER, NODE.name)
    gpus_found = _gpu_info()
    _run_jobs(gpus_found)
    _fill_with_jobs(gpus_found)
    print(f"\nAll of it took {time.monotonic() - start:.0f} s. The node stays up:")
    print("  ./run demo shell    a root shell in it")
    print("  ./run demo status   this picture again")
    print("  ./run demo down     remove it")


def down() -> None:
    """Remove the demo's nodes and files; nothing happens when there are none."""
    if _FOLDER.exists():
        shutil.rmtree(_FOLDER)
    for node in (NODE, CONTROLLER):
        node.down()


def shell() -> None:
    """Become a root shell in the node.

    :raises RigError: it is not up.
    """
    _must_be_up()
    words = NODE.shell_command()
    os.execvp(words[0], words)  # noqa: S606  # no shell of this machine is wanted


def status() -> None:
    """Show the node as Slurm sees it, and its GPUs with the jobs on them.

    :raises RigError: it is not up.
    """
    _must_be_up()
    _show("sinfo", "--long")
    _show("squeue")
    print(_picture(_gpu_info()))


def _prepare(fresh: bool) -> None:
    heading("This machine")
    environment.ensure()
    with step("Remove what an earlier demo left"):
        down()
    if fresh:
        with step("Forget the cached root file systems and packages"):
            base.drop_all()
    with step("Root file system of Debian 13") as building:
        building.note = str(base.ensure())


def _install_collection() -> None:
    log = log_for("demo-collection")
    variables = environment.variables(_COLLECTIONS)
    galaxy = (VENV / "bin/ansible-galaxy", "collection")
    with step("ansible-galaxy collection build, install") as installing:
        run([*galaxy, "build", "--output-path", _FOLDER, REPO], env=variables, log=log)
        (tarball,) = _FOLDER.glob("*.tar.gz")
        where = ("--collections-path", _COLLECTIONS)
        run([*galaxy, "install", "--offline", *where, tarball], env=variables, log=log)
        installing.note = tarball.name


def _play_twice() -> None:
    log = log_for("demo-playbook")
    with step("ansible-playbook hpc.compute.node") as first:
        first.note = str(play.playbook(_NODE_PLAYBOOK, _HOSTS, log, first, _COLLECTIONS))
    NODE.keep_packages()
    with step("ansible-playbook hpc.compute.node, again") as second:
        recap = play.playbook(_NODE_PLAYBOOK, _HOSTS, log, second, _COLLECTIONS)
        second.note = str(recap)
        if recap.changed:
            raise RigError(f"expected the second run to change nothing, found {recap}; see the second half of {log}")


def _run_jobs(gpus: Mapping[str, Any]) -> None:
    heading("Real jobs")
    _show("sinfo", "--long")
    _show("scontrol", "show", "node", NODE.name)
    known = jobs.devices(gpus)
    for kind in (*jobs.offered(CONTROLLER, NODE.name),) or (None,):
        if kind is None:
            words = jobs.srun(None, "hostname")
            shown(shlex.join(words), "\n".join(jobs.run(CONTROLLER, words)))
            continue
        words = jobs.srun(kind, "printenv", "CUDA_VISIBLE_DEVICES")
        (given,) = jobs.run(CONTROLLER, words)
        if given not in known:
            raise RigError(f"expected a job on {kind} to be given one of {', '.join(known)}, found: {given}")
        shown(shlex.join(words), f"{given}\n  its device files: {' '.join(known[given].files)}")


def _fill_with_jobs(gpus: Mapping[str, Any]) -> None:
    heading("The node with jobs on it")
    kinds = [kind for kind, count in jobs.offered(CONTROLLER, NODE.name).items() for _ in range(count)]
    # one device stays free, so that the picture shows what that looks like
    chosen = kinds[: min(_MOST_JOBS, max(1, len(kinds) - 1))]
    started = [
        jobs.submit(CONTROLLER, kind, _JOB_NAMES[number % len(_JOB_NAMES)]) for number, kind in enumerate(chosen)
    ]
    jobs.wait_until_running(CONTROLLER, started)
    # Slurm calls a job running a moment before it has a process that could be asked for its devices
    wait_for("the jobs' processes", lambda: len(jobs.labels(NODE, gpus)) == len(chosen), seconds=30)
    print(_picture(gpus))


def _gpu_info() -> Mapping[str, Any]:
    found: Mapping[str, Any] = play.module("hpc.compute.gpu_info", NODE, _HOSTS, _COLLECTIONS)["inventory"]
    return found


def _picture(gpus: Mapping[str, Any]) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    data = {"inventory": gpus, "labels": jobs.labels(NODE, gpus), "width": width}
    drawing = [VENV / "bin/python", Path(__file__).with_name("picture.py")]
    return run(drawing, env={**os.environ, "PYTHONPATH": str(_COLLECTIONS)}, stdin=json.dumps(data)).stdout.rstrip()


def _show(*words: str) -> None:
    shown(" ".join(words), CONTROLLER.run([*words]).stdout)


def _must_be_up() -> None:
    if not (NODE.is_up() and CONTROLLER.is_up() and _HOSTS.exists()):
        raise RigError("expected the demo to be up, found that it is not; start it with: ./run demo")
