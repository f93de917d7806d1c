#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random layout changes under load, disturbed on purpose; prints what became of the jobs and the nodes.

Run it as root from the repository's root: ``PYTHONPATH=tests .venv/bin/python bench/live_changes.py --minutes 30``. It
boots a controller and three compute nodes, and removes them at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster.changes import DISTURBANCES, Cluster, change, random_layout
from cluster.load import SLURM_CONF, Load
from rig import environment, inventory
from rig.node import Node
from rig.paths import REPO, VENV
from rig.process import RigError

CONTROLLER = Node("live-ctl", "10.213.97.64", image="controller")
COMPUTE = {
    Node("live-h100", "10.213.97.65", image="compute"): "2xh100-80",
    Node("live-a100", "10.213.97.66", image="compute"): "2xa100-40",
    Node("live-a30", "10.213.97.67", image="compute"): "2xa30",
}


def up(folder: Path) -> Cluster:
    """Boot the cluster and make it one."""
    CONTROLLER.up()
    for node, gpus in COMPUTE.items():
        node.up(gpus=gpus)
    hosts = inventory.write(folder, CONTROLLER, list(COMPUTE))
    cluster = Cluster(CONTROLLER, list(COMPUTE), hosts)
    variables = {
        "hpc_hosts": "compute",
        "slurm_compute_node_addr": "{{ ansible_host }}",
        "slurm_compute_slurm_conf": "{{ (lookup('file', '"
        + str(REPO / "tests/rig/group_vars/compute.yml")
        + "') | from_yaml).slurm_compute_slurm_conf | combine("
        + json.dumps(SLURM_CONF)
        + ") }}",
    }
    for playbook in ("hpc.compute.node", str(REPO / "tests/rig/controller.yml")):
        subprocess.run(
            [VENV / "bin/ansible-playbook", "-i", hosts, playbook, "-e", json.dumps(variables)],
            env=environment.variables(),
            cwd=REPO,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    cluster.install_reset()
    cluster.wait_until_in_service()
    return cluster


def run(cluster: Cluster, minutes: float, seed: int, disturbances: list[str]) -> bool:
    """Change for *minutes*, print the figures; whether all is as it must be."""
    dice = random.Random(seed)  # noqa: S311  # figures that can be had again
    load = Load(cluster.controller, cluster.compute)
    load.start(seed)
    end = time.monotonic() + minutes * 60
    rounds = 0
    while time.monotonic() < end:
        wanted = random_layout(dice)
        rounds += 1
        done = change(cluster, dice, wanted, dice.choice(disturbances), dice.choice([1, 2, 3]))
        again = f", then {done.again.seconds:.0f} s to put it right" if done.again else ""
        print(f"change {rounds}: {done.what}; {done.first.seconds:.0f} s{again}", flush=True)
        if done.again:
            print(f"  {done.first.why}", flush=True)
    account = load.stop()
    print(f"{rounds} changes of three nodes in {minutes:g} minutes\n{account}")
    return account.good


def main() -> int:
    """Boot, change, remove; the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", nargs="+", choices=DISTURBANCES, default=list(DISTURBANCES), help="disturbances")
    arguments.add_argument("--keep", action="store_true", help="leave the nodes up")
    given = arguments.parse_args()
    environment.ensure()
    with tempfile.TemporaryDirectory() as folder:
        try:
            good = run(up(Path(folder)), given.minutes, given.seed, given.only)
        except RigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        finally:
            if not given.keep:
                for node in (CONTROLLER, *COMPUTE):
                    node.down()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
