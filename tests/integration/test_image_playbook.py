# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image build leaves: all of it installed and enabled, nothing running, nothing that is one machine's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.node import Node

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
    for unit in ("munge", "slurmd"):
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
