# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A configless cluster of nodes with different boards and two controllers: jobs across nodes, what the controllers are
told of the nodes, accounts, and layouts that change under a load of jobs.

The tests stand on each other, in the order of the file.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.changes import Cluster, change, layout
from cluster.load import Load
from rig import nspawn
from rig.node import Node, all_nodes
from rig.process import wait_for

testinfra_hosts = ["ansible://controller"]

MIXED = {"*H100*": {"3g.40gb": 1, "1g.10gb": 3}, "*A100*": {"3g.20gb": 1, "1g.5gb": 3}, "*A30*": {"1g.6gb": 4}}
FINE: Mapping[str, Mapping[str, int]] = {"*H100*": {"1g.10gb": 7}, "*A100*": {"1g.5gb": 7}, "*A30*": {"2g.12gb": 2}}
CONFIGLESS = {"slurm_compute_config_mode": "configless", "slurm_compute_node_addr": "{{ ansible_host }}"}
TWO = "mol-cl-a100,mol-cl-a30"
DATABASE = """\
systemctl start mariadb.service
mariadb -e 'CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost IDENTIFIED VIA unix_socket;
    GRANT ALL ON slurm_acct_db.* TO slurm@localhost'
install -o slurm -g slurm -m 0600 /dev/stdin /etc/slurm/slurmdbd.conf <<X
DbdHost=localhost
SlurmUser=slurm
LogFile=/var/log/slurm/slurmdbd.log
PidFile=/run/slurmdbd/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageUser=slurm
X
systemctl start slurmdbd.service
"""


@pytest.fixture(scope="module")
def backup() -> Node:
    return next(node for node in all_nodes() if node.name == "mol-cl-bak")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    known = {node.name: node for node in all_nodes()}
    nodes = [known[name] for name in ("mol-cl-h100", "mol-cl-a100", "mol-cl-a30")]
    folder = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    made = Cluster(known["mol-cl-ctl"], nodes, folder, CONFIGLESS)
    made.install_reset()
    made.wait_until_in_service()
    return made


def conf(node: Node, name: str = "nodes.conf") -> str:
    return (node.root / "etc/slurm" / name).read_text()


def sh(node: Node, script: str) -> str:
    return node.run(["sh", "-ec", script]).stdout


def srun(cluster: Cluster, options: str, script: str) -> list[str]:
    """Lines that a job of an ordinary user printed."""
    words = f"runuser --user debian -- srun --chdir=/tmp --mem=32M {options} sh -c {shlex.quote(script)}"
    return sh(cluster.controller, words).splitlines()


def uuids(node: Node) -> str:
    """What the emulated driver of a node shows."""
    return sh(node, "cd /opt/emulated-gpu && python3 -S -m emulator show")


def reason(cluster: Cluster, node: Node) -> str:
    """With the time at which it was given."""
    return "".join(re.findall(r" Reason=.*", cluster.state(node)))


def said(text: str) -> str:
    return " ".join(text.split())


def test_both_controllers_know_the_nodes(cluster: Cluster, backup: Node) -> None:
    assert conf(cluster.controller) == conf(backup)
    assert conf(cluster.controller).count("NodeName=mol-cl-") == 3
    assert "AccountingStorageTRES" not in conf(backup), "without a database slurmctld would not start"
    assert "NodeName=mol-cl-a[30,100],mol-cl-h100 AutoDetect=nvml" in conf(backup, "gres.conf")
    for node in cluster.compute:
        assert not (node.root / "etc/slurm/slurm.conf").exists()
        assert "AutoDetect=nvml" in sh(node, "cat /run/slurm/conf/gres.conf")
    # it may take over at any time
    ping = sh(cluster.controller, "scontrol ping")
    assert ping.count(" is UP") == 2, ping


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
def accounts(cluster: Cluster, backup: Node) -> Cluster:
    """The cluster gets a database, and its controllers are told which GPUs it is to account for."""
    sh(cluster.controller, DATABASE)
    for node in (cluster.controller, backup):
        path = node.root / "etc/slurm/slurm.conf"
        host = f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost={cluster.controller.name}\n"
        path.write_text(path.read_text().replace("Include nodes.conf\n", f"{host}Include nodes.conf\n"))
    # the cluster gets its number from the database now
    sh(cluster.controller, "systemctl stop slurmctld; rm /srv/shared/slurmctld/clustername; systemctl start slurmctld")
    sh(backup, "systemctl restart slurmctld")
    cluster.wait_until_in_service()
    run = cluster.play("hpc.compute.controller", hpc_controllers="controller")
    assert run.code == 0, run.said
    return cluster


def test_what_jobs_use_is_accounted_for_by_type(accounts: Cluster, backup: Node) -> None:
    assert conf(accounts.controller) == conf(backup)
    assert "AccountingStorageTRES=gres/gpu,gres/gpu:nvidia_a100-sxm4-40gb,gres/gpu:nvidia_a30" in conf(backup)
    number = sh(
        accounts.controller,
        "cd /; sbatch --wait --parsable --output=/dev/null --mem=32M --gres=gpu:nvidia_a30:1 --wrap=true",
    ).strip()
    told = f"sacct --noheader --allocations --parsable2 --format=AllocTRES --jobs={number}"
    wait_for("the account of the job", lambda: "gres/gpu:nvidia_a30=1" in sh(accounts.controller, told), 20, every=0.5)


@pytest.fixture(scope="module")
def account(accounts: Cluster) -> Any:
    """Layouts are changed under load, and each time something gets in the way."""
    load = Load(accounts.controller, accounts.compute)
    load.start(seed=5)
    dice = random.Random(5)  # noqa: S311  # the same each time
    for cuts, disturbance in ((FINE, "controller"), (MIXED, "reboot")):
        change(accounts, dice, layout(cuts), disturbance, serial=3)
    return load.stop()


def test_no_job_is_hurt_by_changes_under_load(account: Any) -> None:
    assert account.good, str(account)
    assert account.completed > 10, str(account)


def test_all_nodes_offer_what_the_layout_says(cluster: Cluster, backup: Node, account: Any) -> None:
    offers = {node.name: sorted(cluster.gres(node).values()) for node in cluster.compute}
    assert offers == {"mol-cl-h100": [2, 6], "mol-cl-a100": [2, 6], "mol-cl-a30": [8]}, account
    assert conf(cluster.controller) == conf(backup)


def test_a_job_on_slices_of_two_nodes(cluster: Cluster, account: Any) -> None:
    script = 'echo "$(hostname) $CUDA_VISIBLE_DEVICES"'
    lines = srun(cluster, "--nodes=2 --gres=gpu:1 --nodelist=mol-cl-h100,mol-cl-a30", script)
    given = dict(line.split() for line in lines)
    assert sorted(given) == ["mol-cl-a30", "mol-cl-h100"], account
    for node in cluster.compute:
        if node.name in given:
            assert given[node.name].startswith("MIG-")
            assert given[node.name] in uuids(node)


REFUSES_ONCE = """\
#!/bin/sh
# Stands for a controller that can't take over what it is told, once.
[ "$1" = reconfigure ] && mkdir /run/refused 2>/dev/null && { echo 'not this time' >&2; exit 1; }
exec /usr/bin/scontrol "$@"
"""


def test_every_node_of_a_batch_is_put_back_when_the_controller_refuses(
    cluster: Cluster, backup: Node, account: Any
) -> None:
    before = {node.name: cluster.gres(node) for node in cluster.compute}, conf(backup)
    paths = [node.root / "usr/local/bin/scontrol" for node in (cluster.controller, backup)]
    for path in paths:
        path.write_text(REFUSES_ONCE)
        path.chmod(0o755)
    run = cluster.change_layout(gpu_layout_config=layout(FINE), gpu_layout_change_serial=2, hpc_hosts=TWO)
    for path in paths:
        path.unlink()
    assert run.code == 2, run.said
    for node in cluster.compute[1:]:
        told = reason(cluster, node)
        assert "layout change failed, all is as before: The controller did not take over the change" in told, run.said
        assert "not this time" in told
        assert sh(node, "systemctl is-active slurmd").strip() == "active"
    assert ({node.name: cluster.gres(node) for node in cluster.compute}, conf(cluster.controller)) == before

    run = cluster.change_layout(gpu_layout_config=layout(MIXED), gpu_layout_change_serial=2, hpc_hosts=TWO)
    assert run.code == 0, run.said
    cluster.wait_until_in_service()


def test_a_batch_is_put_back_when_a_controllers_machine_is_lost(cluster: Cluster, backup: Node, account: Any) -> None:
    """It goes down while GPUs are cut, and is waited for."""
    before = {node.name: cluster.gres(node) for node in cluster.compute}, conf(backup)
    wanted = {"gpu_layout_change_serial": 2, "hpc_hosts": TWO}
    runs: list[Any] = []
    thread = threading.Thread(
        target=lambda: runs.append(cluster.change_layout(gpu_layout_config=layout(FINE), **wanted))
    )
    thread.start()
    wait_for("a node to be changed", lambda: cluster.is_under_change(cluster.compute[1]), 90, every=0.3)
    nspawn.kill(backup.name)
    thread.join(timeout=25)
    assert thread.is_alive(), runs[0].said
    shared = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "shared"
    nspawn.boot(backup.name, backup.root, backup.folder / "console.log", shared)
    thread.join()
    assert runs[0].code == 2, runs[0].said
    for node in cluster.compute[1:]:
        assert "all is as before: The controller did not take over the change" in reason(cluster, node), runs[0].said
    assert ({node.name: cluster.gres(node) for node in cluster.compute}, conf(cluster.controller)) == before
    assert conf(backup) == before[1]

    run = cluster.change_layout(gpu_layout_config=layout(MIXED), **wanted)
    assert run.code == 0, run.said
    cluster.wait_until_in_service()


def test_a_node_that_somebody_gives_back_is_left_alone(cluster: Cluster, account: Any) -> None:
    """While a job of another node of its batch is waited for; that one is given back, as the job does not end."""
    _, a100, a30 = cluster.compute
    sbatch = "cd /; sbatch --parsable --output=/dev/null --mem=32M -w mol-cl-a100 --gres=gpu:1 --wrap='sleep 999'"
    number = sh(cluster.controller, sbatch).strip()
    wait_for("the job to run", lambda: state_of(cluster, number) == "RUNNING", 20, every=0.5)
    before = {node.name: uuids(node) for node in cluster.compute}
    runs: list[Any] = []
    wanted = {"gpu_layout_config": layout(FINE), "gpu_layout_change_serial": 2, "hpc_hosts": TWO}
    thread = threading.Thread(
        target=lambda: runs.append(cluster.change_layout(gpu_layout_change_job_timeout=20, **wanted))
    )
    thread.start()
    wait_for("the node to be drained", lambda: "DRAIN" in cluster.state(a30), 60, every=0.2)
    sh(cluster.controller, f"scontrol update NodeName={a30.name} State=RESUME")
    thread.join()
    assert runs[0].code == 2, runs[0].said
    assert "somebody resumed it while other nodes of its batch were waited for" in said(runs[0].said), runs[0].said
    assert f"{number} (wrap, root, RUNNING)" in said(runs[0].said), runs[0].said
    assert {node.name: uuids(node) for node in cluster.compute} == before
    assert "DRAIN" not in cluster.state(a100) + cluster.state(a30)
    sh(cluster.controller, f"scancel {number}")


@pytest.fixture(scope="module")
def job(cluster: Cluster, account: Any) -> str:
    """A job that runs on the node with A30 boards until the end, whatever happens."""
    sbatch = "cd /; sbatch --parsable --output=/dev/null --mem=32M -w mol-cl-a30 --gres=gpu:1 --wrap='sleep 999'"
    number = sh(cluster.controller, sbatch).strip()
    wait_for("the job to run", lambda: state_of(cluster, number) == "RUNNING", 20, every=0.5)
    return number


def state_of(cluster: Cluster, number: str) -> str:
    return sh(cluster.controller, f"squeue --noheader --format=%T --jobs={number}").strip()


def facts(cluster: Cluster, change: Callable[[str], str]) -> dict[str, Any]:
    """What a run would know of the nodes: their lines as they are, *changed*."""
    lines = re.findall(r"(?m)^NodeName=.*", conf(cluster.controller))
    known = {line.split()[0].partition("=")[2]: {"node_line": change(line)} for line in lines}
    return {"hpc_controller_asks_nodes": False, "slurm_controller_nodes_facts": known}


def test_new_types_are_accounted_for_and_a_node_with_jobs_keeps_its_line(
    cluster: Cluster, backup: Node, job: str
) -> None:
    before = conf(backup)
    assert "gres/gpu:nvidia_a30_1g.6gb" not in before
    wanted = facts(cluster, lambda line: line.replace("1g.6gb:8", "1g.6gb:7"))
    run = cluster.play("hpc.compute.controller", "--diff", **wanted)
    assert run.code == 2, run.said
    held = "mol-cl-a30: Gres=gpu:nvidia_a30_1g.6gb:8 is to become gpu:nvidia_a30_1g.6gb:7, but jobs run on it"
    assert held in said(run.said), run.said
    assert "playbook hpc.compute.gpu_layout" in said(run.said)
    after = conf(backup)
    assert after == conf(cluster.controller)
    assert "gres/gpu:nvidia_a30_1g.6gb," in after
    assert [one for one in after.splitlines() if "Node" in one] == [one for one in before.splitlines() if "Node" in one]
    assert "gpu:nvidia_a30_1g.6gb" in sh(cluster.controller, "sacctmgr --noheader --parsable2 show tres format=name")
    assert state_of(cluster, job) == "RUNNING"


@pytest.mark.parametrize("trial", [True, False])
def test_what_slurmctld_refuses_comes_nowhere(cluster: Cluster, backup: Node, job: str, trial: bool) -> None:
    before = conf(backup)
    wanted = facts(cluster, lambda line: line)
    # two nodes that are one machine
    line = "NodeName=ghost NodeHostname=mol-cl-h100 CPUs=2"
    wanted["slurm_controller_nodes_facts"]["ghost"] = {"node_line": line}
    run = cluster.play("hpc.compute.controller", "--diff", slurm_controller_nodes_trial=trial, **wanted)
    assert run.code == 2, run.said
    if trial:
        assert "slurmctld does not start with these files: " in said(run.said), run.said
        assert "ghost" not in run.said.partition("Install them on the backups")[2], "a file was about to be replaced"
    else:
        assert "The old files are back. The controller runs on with the old files" in said(run.said), run.said
    assert conf(backup) == conf(cluster.controller) == before
    assert state_of(cluster, job) == "RUNNING"
    assert sh(cluster.controller, "scontrol ping").count(" is UP") == 2
    assert not list((cluster.controller.root / "run").glob("hpc-compute-trial-*"))


def test_nodes_are_given_back_or_left_to_others(cluster: Cluster, job: str) -> None:
    """In one batch: a node whose job does not end, one that somebody else has drained, one where nothing changes."""
    h100, a100, a30 = cluster.compute
    sh(cluster.controller, f"scontrol update NodeName={h100.name} State=DRAIN Reason='fan broken'")
    devices, before = uuids(a30), reason(cluster, a100)
    run = cluster.change_layout(
        gpu_layout_config=layout({"*H100*": FINE["*H100*"], "*A100*": MIXED["*A100*"], "*A30*": FINE["*A30*"]}),
        gpu_layout_change_job_timeout=2,
        gpu_layout_change_serial=3,
    )
    assert run.code == 2, run.said
    assert f"{job} (wrap, root, RUNNING)" in said(run.said), run.said
    assert "DRAIN" not in cluster.state(a30)
    assert uuids(a30) == devices
    assert state_of(cluster, job) == "RUNNING"

    assert "DRAIN" not in cluster.state(a100)
    assert reason(cluster, a100) == before, "it was drained meanwhile"

    assert "drained by somebody else" in said(run.said)
    assert "State=IDLE+DRAIN" in cluster.state(h100)
    assert "Reason=fan broken" in cluster.state(h100)
    assert list(cluster.gres(h100).values()) == [14]
