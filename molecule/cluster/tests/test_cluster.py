# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of nodes with different boards: jobs across nodes, and layouts that change under a load of jobs."""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.changes import Cluster, change, layout
from cluster.load import Load
from rig.node import Node, all_nodes

testinfra_hosts = ["ansible://controller"]

MIXED = {"*H100*": {"3g.40gb": 1, "1g.10gb": 3}, "*A100*": {"3g.20gb": 1, "1g.5gb": 3}, "*A30*": {"1g.6gb": 4}}
FINE: Mapping[str, Mapping[str, int]] = {"*H100*": {"1g.10gb": 7}, "*A100*": {"1g.5gb": 7}, "*A30*": {"2g.12gb": 2}}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    known = {node.name: node for node in all_nodes()}
    nodes = [known[name] for name in ("mol-cl-h100", "mol-cl-a100", "mol-cl-a30")]
    made = Cluster(known["mol-cl-ctl"], nodes, Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    made.install_reset()
    made.wait_until_in_service()
    return made


def srun(cluster: Cluster, options: str, script: str) -> list[str]:
    """Lines that a job of an ordinary user printed."""
    words = f"runuser --user debian -- srun --chdir=/tmp --mem=32M {options} sh -c {shlex.quote(script)}"
    return cluster.controller.run(["sh", "-c", words]).stdout.splitlines()


def uuids(node: Node) -> str:
    """What the emulated driver of a node shows."""
    return node.run(["sh", "-c", "cd /opt/emulated-gpu && python3 -S -m emulator show"]).stdout


def test_ranks_of_open_mpi_over_two_nodes(cluster: Cluster) -> None:
    program = (
        "from mpi4py.MPI import COMM_WORLD as world; import socket; total = world.allreduce(world.Get_rank() + 1);"
        "print(world.Get_rank(), world.Get_size(), total, socket.gethostname())"
    )
    options = "--mpi=pmix --nodes=2 --ntasks-per-node=2 --overcommit --nodelist=mol-cl-a100,mol-cl-a30"
    lines = sorted(srun(cluster, options, f"exec /usr/bin/python3 -c {shlex.quote(program)}"))
    assert [line.split()[:3] for line in lines] == [[str(rank), "4", "10"] for rank in range(4)]
    assert {line.split()[3] for line in lines} == {"mol-cl-a100", "mol-cl-a30"}


@pytest.fixture(scope="module")
def account(cluster: Cluster) -> Any:
    """Layouts are changed under load, and each time something gets in the way."""
    load = Load(cluster.controller, cluster.compute)
    load.start(seed=5)
    dice = random.Random(5)  # noqa: S311  # the same each time
    for cuts, disturbance in ((MIXED, "controller"), (FINE, "reboot"), (MIXED, "fault")):
        change(cluster, dice, layout(cuts), disturbance, serial=3)
    return load.stop()


def test_no_job_is_hurt_by_changes_under_load(cluster: Cluster, account: Any) -> None:
    assert account.good, str(account)
    assert account.completed > 10, str(account)


def test_all_nodes_offer_what_the_layout_says(cluster: Cluster, account: Any) -> None:
    offers = {node.name: sorted(cluster.gres(node).values()) for node in cluster.compute}
    assert offers == {"mol-cl-h100": [2, 6], "mol-cl-a100": [2, 6], "mol-cl-a30": [8]}, account
    files = {(node.root / "etc/slurm/slurm.conf").read_text() for node in (cluster.controller, *cluster.compute)}
    assert len(files) == 1, "slurm.conf is not the same everywhere"


def test_a_job_on_slices_of_two_nodes(cluster: Cluster, account: Any) -> None:
    script = 'echo "$(hostname) $CUDA_VISIBLE_DEVICES"'
    lines = srun(cluster, "--nodes=2 --gres=gpu:1 --nodelist=mol-cl-h100,mol-cl-a30", script)
    given = dict(line.split() for line in lines)
    assert sorted(given) == ["mol-cl-a30", "mol-cl-h100"], account
    for node in cluster.compute:
        if node.name in given:
            assert given[node.name].startswith("MIG-")
            assert given[node.name] in uuids(node)


def test_nothing_is_drained_when_nothing_changes(cluster: Cluster, account: Any) -> None:
    before = cluster.state(cluster.compute[2])
    run = cluster.play(hpc_hosts="mol-cl-a30", gpu_layout_config=layout(MIXED))
    assert run.code == 0, run.said
    assert "changed=0 " in run.said, run.said
    after = cluster.state(cluster.compute[2])
    words = ("Reason=", "SlurmdStartTime=")
    assert [w for w in before.split() if w.startswith(words)] == [w for w in after.split() if w.startswith(words)], (
        account
    )


def test_a_node_is_given_back_untouched_when_its_jobs_do_not_end(cluster: Cluster, account: Any) -> None:
    node = cluster.compute[2]
    number = cluster.controller.run(
        ["sbatch", "--parsable", "--output=/dev/null", "--mem=32M", "-w", node.name, "--gres=gpu:1", "--wrap=sleep 999"]
    ).stdout.strip()
    devices = uuids(node)
    change_it = {"hpc_hosts": node.name, "gpu_layout_config": layout(FINE), "gpu_layout_change_job_timeout": 2}
    run = cluster.play(**change_it)
    assert run.code == 2, run.said
    assert f"{number} (wrap, root, RUNNING)" in " ".join(run.said.split()), run.said
    assert "DRAIN" not in cluster.state(node), account
    assert uuids(node) == devices
    assert cluster.controller.run(["squeue", "--noheader", "--format=%T", f"--jobs={number}"]).stdout.split() == [
        "RUNNING"
    ]
    cluster.controller.run(["scancel", number])


def test_the_drain_of_somebody_else_stays(cluster: Cluster, account: Any) -> None:
    node = cluster.compute[2]
    cluster.controller.run(["scontrol", "update", f"NodeName={node.name}", "State=DRAIN", "Reason=fan broken"])
    run = cluster.play(hpc_hosts=node.name, gpu_layout_config=layout(FINE))
    assert run.code == 0, run.said
    assert "drained by somebody else" in " ".join(run.said.split())
    state = cluster.state(node)
    assert "State=IDLE+DRAIN" in state, account
    assert "Reason=fan broken" in state
    assert list(cluster.gres(node).values()) == [4]
    cluster.controller.run(["scontrol", "update", f"NodeName={node.name}", "State=RESUME"])
