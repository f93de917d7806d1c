# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that introduces itself to its controller."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rig import inventory
from rig.node import Node
from rig.process import wait_for

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
_PLAY = """
- hosts: compute
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: hpc.compute.slurm_compute
"""
_RIG: dict[str, Any] = yaml.safe_load((REPO / "tests/rig/group_vars/compute.yml").read_text())[
    "slurm_compute_slurm_conf"
]


@dataclass
class Cluster:
    """A controller and a dynamic node."""

    controller: Node
    node: Node
    hosts: Path
    key: str

    def play(self, playbook: str | Path, *words: str, **variables: Any) -> tuple[int, str]:
        """Run a playbook: its exit code, and all it said."""
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", self.hosts, playbook, "-e", json.dumps(variables), *words],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
                "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            timeout=400,
        )
        return done.returncode, done.stdout + done.stderr

    def role(self, *words: str, **variables: Any) -> tuple[int, str]:
        """Run the role on the node."""
        return self.play(
            self.hosts.parent / "play.yml",
            *words,
            slurm_compute_dynamic=True,
            slurm_compute_node_options={"Feature": "a,b", "Weight": 5},
            slurm_compute_slurm_conf={**_RIG, "MaxNodeCount": 4},
            slurm_compute_node_health=False,
            **variables,
        )

    def told(self, *command: str) -> str:
        return self.node.run(list(command), check=False).stdout.strip()

    def scontrol(self) -> str:
        return self.told("scontrol", "--oneliner", "show", "node", self.node.name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("service") / "inventory"
    controller, node = Node("it-ctl", "10.213.97.87", "controller"), Node("it-dynamic", "10.213.97.48")
    try:
        controller.up()
        node.up(gpus="h100-80=1g.10gb*2")
        hosts = inventory.write(folder, controller, [node])
        (folder / "play.yml").write_text(_PLAY)
        key = json.loads(hosts.read_text())["all"]["children"]["compute"]["vars"]["slurm_compute_munge_key"]
        yield Cluster(controller, node, hosts, key)
        node.keep_packages()
    finally:
        node.down()
        controller.down()


def test_a_dynamic_node_introduces_itself_with_its_devices(cluster: Cluster) -> None:
    code, said = cluster.role("--diff", "-vvv")
    assert code == 0, said
    assert cluster.key not in said, "the munge key is in what Ansible says"
    assert cluster.told("stat", "-c", "%U %a", "/etc/munge/munge.key") == "munge 400"
    assert "NodeName" not in (cluster.node.root / "etc/slurm/slurm.conf").read_text()
    code, said = cluster.play(REPO / "tests/rig/controller.yml")
    assert code == 0, said
    cluster.node.run(["systemctl", "restart", "slurmd"])  # it would try again by itself, but not soon
    wait_for("the node to register", lambda: "State=IDLE+DYNAMIC_NORM" in cluster.scontrol(), seconds=60)
    shown = cluster.scontrol()
    assert "Gres=gpu:nvidia_h100_80gb_hbm3_1g.10gb:2" in shown
    assert "ActiveFeatures=a,b" in shown
    assert "Weight=5 " in shown

    code, said = cluster.role(slurm_compute_wait_for_registration=True)
    assert code == 0, said
    assert re.search(r"changed=0 +unreachable=0 +failed=0", said), said
    device = cluster.told("srun", "--chdir=/", "--gres=gpu:1", "printenv", "CUDA_VISIBLE_DEVICES")
    assert device.startswith("MIG-"), device


def test_what_is_for_nodes_with_a_line_leaves_it_alone(cluster: Cluster) -> None:
    layout = {
        "version": "v1",
        "mig-configs": {"all": [{"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 7}}]},
    }
    before = cluster.scontrol()
    code, said = cluster.play(
        "hpc.compute.gpu_layout",
        hpc_hosts=cluster.node.name,
        slurm_compute_dynamic=True,
        gpu_layout_change_controllers=[cluster.controller.name],
        gpu_layout_config=layout,
    )
    assert code == 2, said
    assert f"scontrol delete NodeName={cluster.node.name}" in " ".join(said.split()), said
    code, said = cluster.play(
        "hpc.compute.controller",
        hpc_hosts=cluster.node.name,
        hpc_controllers=cluster.controller.name,
        slurm_compute_dynamic=True,
    )
    assert code == 2, said
    assert f"no line is written for {cluster.node.name}, which introduce themselves" in " ".join(said.split()), said
    assert cluster.scontrol().partition(" LastBusyTime")[0] == before.partition(" LastBusyTime")[0]
