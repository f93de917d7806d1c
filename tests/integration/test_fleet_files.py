# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's files for a fleet: a real slurmctld starts on them, and takes changes over as predicted."""

from __future__ import annotations

import random
import re

from ansible_collections.hpc.compute.bench.fleet import LAYOUTS, facts
from ansible_collections.hpc.compute.plugins.filter.slurm_nodes import slurm_nodes
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_change import classify
from ansible_collections.hpc.compute.plugins.module_utils.slurm.hostlist import expand, fold
from integration.lone_cluster import HARDWARE, LoneCluster
from rig.process import wait_for

_NODES = 5_000
_SLICE = "nvidia_h100_80gb_hbm3_1g.10gb"


def test_host_lists_are_slurms(cluster: LoneCluster) -> None:
    choose = random.Random(1)  # noqa: S311  # reproducible, not secret
    lists = []
    for _ in range(25):
        form = choose.choice(("n{:d}", "n{:03d}", "r{:d}-ib", "10.0.0.{:d}", "a{:02d}b"))
        lists.append([form.format(choose.randrange(150)) for _ in range(choose.randrange(1, 30))])
    folded = [fold(hosts) for hosts in lists]
    script = "; ".join(f"scontrol show hostnames '{one}'; echo --" for one in folded)
    cluster.configure("gpu:t4:1", "AutoDetect=nvml\n")
    said = cluster.run(script)
    assert [part.split() for part in said.split("--\n")[:-1]] == lists
    assert [expand(one) for one in folded] == lists


def test_a_controller_starts_on_thousands_of_nodes(cluster: LoneCluster) -> None:
    files = slurm_nodes(facts(_NODES))
    assert files["nodes_conf"].count("\n") < 50
    cluster.use_gpus("t4")
    cluster.configure("gpu:t4:1", "AutoDetect=nvml\n")
    conf = (cluster.node.root / "etc/slurm/slurm.conf").read_text()
    # GresTypes comes with nodes.conf
    cluster.write(
        {
            "/etc/slurm/slurm.conf": re.sub("(?m)^GresTypes=.*", "Include nodes.conf", conf),
            "/etc/slurm/nodes.conf": files["nodes_conf"],
        }
    )
    cluster.restart()
    shown = cluster.run("scontrol show node --oneliner")
    gres = dict(re.findall(r"(?m)^NodeName=(\S+) .*? Gres=(\S+)", shown))
    assert len(gres) == _NODES + 1
    assert gres["gpu05000"] == LAYOUTS[-1]
    addresses = dict(re.findall(r"(?m)^NodeName=(\S+) .*? NodeAddr=(\S+)", shown))
    assert addresses["gpu00300"] == "10.0.1.44"
    assert addresses["gpu05000"] == "10.0.19.136"
    memory = set(re.findall(r"NodeName=gpu\S+ .*? RealMemory=(\d+)", shown))
    assert memory == {"2063000"}
    log = cluster.run("cat /var/log/slurm/slurmctld.log")
    assert not re.search(r"(?i)error.*(gres|nodes\.conf|hostlist|parse)", log), log


def test_changes_are_what_classify_says(cluster: LoneCluster) -> None:
    cluster.use_gpus("h100-80=1g.10gb*4")
    line = f"NodeName={cluster.node.name} {HARDWARE}"
    nodes = f"GresTypes=gpu\n{line} Gres=gpu:{_SLICE}:3\n"
    cluster.configure(f"gpu:{_SLICE}:3", "AutoDetect=nvml\n")
    conf = (cluster.node.root / "etc/slurm/slurm.conf").read_text()
    conf = re.sub("(?m)^NodeName=.*", "Include nodes.conf", re.sub("(?m)^GresTypes=.*\n", "", conf))
    cluster.write({"/etc/slurm/slurm.conf": conf, "/etc/slurm/nodes.conf": nodes})
    cluster.restart()

    def publish(text: str) -> None:
        cluster.write({"/etc/slurm/nodes.conf": text})
        cluster.run("scontrol reconfigure")
        wait_for("the node to register", lambda: cluster.state() != "unk", seconds=30)

    def running() -> bool:
        return "RUNNING" in cluster.run("squeue -h -o %T")

    cluster.run(f"cd /tmp; sbatch --output=/dev/null --gres=gpu:{_SLICE}:1 --wrap 'sleep 300'")
    wait_for("the job to run", running, seconds=30)

    # What needs no draining: nodes that come and go, and what jobs don't feel.
    more = nodes + "NodeName=new[1-2] NodeAddr=10.9.9.[1-2] CPUs=4 State=DOWN\n"
    change = classify(nodes, more)
    assert (change.action, change.added, change.drain) == ("reconfigure", ("new1", "new2"), ())
    publish(more)
    assert "new2" in cluster.run("sinfo -h -N -o %N")
    moved = more.replace("new[1-2]", "new1").replace("[1-2]", "7").replace(HARDWARE, f"{HARDWARE} Feature=ib Weight=7")
    change = classify(more, moved)
    assert (change.removed, change.drain) == (("new2",), ("new2",))
    publish(moved)
    assert "new2" not in cluster.run("sinfo -h -N -o %N")
    assert running()

    less = moved.replace("RealMemory=4000", "RealMemory=3900")
    assert classify(moved, less).drain == ()
    publish(less)
    assert "RealMemory=3900" in cluster.run(f"scontrol show node {cluster.node.name}")
    assert running()
    publish(moved)

    # What does: Slurm kills the job as the number of GPUs changes, though its own is still there.
    grown = moved.replace(f"{_SLICE}:3", f"{_SLICE}:4")
    change = classify(moved, grown)
    assert (change.grown, change.drain) == ((cluster.node.name,), (cluster.node.name,))
    publish(grown)
    wait_for("the job to be killed", lambda: not running(), seconds=30)
    assert f"gres/gpu count mismatch on node {cluster.node.name}" in cluster.run("cat /var/log/slurm/slurmctld.log")
