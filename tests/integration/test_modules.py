# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules through Ansible on a real node: what they write is what slurmd then offers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.slurmd_node import REPO, SlurmdNode

_VENV = REPO / ".venv"
_SLURM_CONF = """\
ClusterName=modules
SlurmctldHost=localhost
AuthType=auth/munge
GresTypes=gpu
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
{line} Gres={gres}
"""
_SLICES = "gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_h100_80gb_hbm3_1g.10gb:1,gpu:nvidia_h100_80gb_hbm3_3g.40gb:1"


class Modules:
    """Runs the modules on the node."""

    def __init__(self, slurmd_node: SlurmdNode, inventory: Path) -> None:
        self.slurmd_node = slurmd_node
        self.node = slurmd_node.node
        self._inventory = inventory
        inventory.write_text(json.dumps({"all": {"hosts": {"node": self.node.connection()}}}))

    def run(self, module: str, *options: str, **arguments: Any) -> dict[str, Any]:
        """The result of one module, ``failed`` and ``changed`` included."""
        done = subprocess.run(
            [
                *(_VENV / "bin/ansible", "node", "-i", self._inventory, "--become", "-m", f"hpc.compute.{module}"),
                *(("-a", json.dumps(arguments)) if arguments else ()),
                *options,
            ],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        status, separator, result = done.stdout.partition(" => ")
        assert separator, f"ansible said: {done.stdout}{done.stderr}"
        answer: dict[str, Any] = json.loads(result)
        answer["failed"] = "FAILED" in status
        return answer

    def slurm_conf(self, gres: str) -> None:
        line = self.run("slurm_node_info")["node_line"]
        (self.node.root / "etc/slurm/slurm.conf").write_text(_SLURM_CONF.format(line=line, gres=gres))
        (self.node.root / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=disabled\n")


@pytest.fixture(scope="module")
def modules(slurmd_node: SlurmdNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modules]:
    slurmd_node.use_gpus("h100-80,h100-80=3g.40gb:1g.10gb")
    yield Modules(slurmd_node, tmp_path_factory.mktemp("modules") / "inventory.json")
    for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
        (slurmd_node.node.root / "etc/slurm" / name).unlink(missing_ok=True)


def test_written_verified_and_left_alone(modules: Modules) -> None:
    planned = modules.run("slurm_gres", "--check", mode="0644")
    assert (planned["changed"], planned["gres"]) == (True, _SLICES)
    assert not (modules.node.root / "etc/slurm/gres.conf").exists()
    modules.slurm_conf(_SLICES)
    first = modules.run("slurm_gres", mode="0644", verify=True)
    assert (first["failed"], first["changed"], first["verified"]) == (False, True, True), first
    second = modules.run("slurm_gres", mode="0644", verify=True)
    assert (second["changed"], second["verified"]) == (False, True)
    found = modules.run("slurm_node_info")["gres"]
    assert sorted(found.split(",")) == _SLICES.split(",")


def test_slurm_conf_with_another_gres_is_told(modules: Modules) -> None:
    modules.slurm_conf("gpu:h100:1,gpu:3g.40gb:1")
    result = modules.run("slurm_gres", verify=True)
    assert result["failed"]
    assert "at /dev/nvidia0, slurmd does not offer it" in result["msg"]
    assert f"Expected Gres={_SLICES}" in result["msg"]


def test_a_binding_that_slurmd_would_get_wrong_is_refused(modules: Modules) -> None:
    result = modules.run("slurm_gres", gres="gpu:h100:1,gpu:3g.40gb:1")
    assert result["failed"]
    assert "gpu:h100:1 means nvidia_h100_80gb_hbm3 (/dev/nvidia0)" in result["msg"]


def test_munge_is_not_running(modules: Modules) -> None:
    modules.slurm_conf(_SLICES)
    modules.node.run(["systemctl", "stop", "munge"])
    try:
        result = modules.run("slurm_gres", verify=True)
    finally:
        modules.node.run(["systemctl", "start", "munge"])
    assert result["failed"]
    assert "munged is not running" in result["msg"]


def test_slurmd_lacks_its_nvml_plugin(modules: Modules) -> None:
    plugin = next((modules.node.root / "usr/lib").glob("*/slurm-wlm/gpu_nvml.so"))
    away = plugin.with_suffix(".away")
    plugin.rename(away)
    try:
        result = modules.run("slurm_gres", verify=True)
    finally:
        away.rename(plugin)
    assert result["failed"]
    assert "slurm-wlm-nvml-plugin" in result["msg"]
