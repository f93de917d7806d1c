# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node loses its cut with every power cycle: the unit makes it again, and slurmd never starts on a wrong one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rig import nspawn
from rig.node import Node
from rig.process import RigError, wait_for

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
_PACKAGES = "slurmd slurm-client slurm-wlm-nvml-plugin munge"
_SLURM_CONF = """\
ClusterName=layout
SlurmctldHost={host}
AuthType=auth/munge
SlurmUser=slurm
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
ReturnToService=2
GresTypes=gpu
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/linux
{hardware} Gres={gres}
PartitionName=main Nodes=ALL Default=YES State=UP
"""
LAYOUT = {
    "version": "v1",
    "mig-configs": {
        "other": [{"devices": "all", "mig-enabled": False}],
        "night": [
            {"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 4, "3g.40gb": 1}},
            {"devices": [1], "mig-enabled": True, "mig-devices": {"1c.3g.40gb": 3, "2g.20gb": 2}},
        ],
    },
}


class LayoutNode:
    """A node that is its own controller, with a layout put on it by the role."""

    def __init__(self) -> None:
        self.node = Node("it-layout", "10.213.97.40", image="controller")

    def up(self) -> None:
        self.node.up(gpus="2xh100-80")
        sources = self.node.root / "etc/apt/sources.list.d/debian.sources"
        sources.write_text(sources.read_text().replace("Components: main\n", "Components: main contrib\n"))
        # Nothing starts before it is configured.
        policy = self.node.root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        install = f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {_PACKAGES}"
        self.run(f"apt-get -qq update && {install}")
        # unpacked only: its dependency is NVIDIA's library, in whose place the emulated one is
        self.run("cd /tmp; apt-get -qq download python3-pynvml; dpkg -x python3-pynvml_*.deb /")
        self.node.keep_packages()

    def run(self, script: str, check: bool = True) -> str:
        done = self.node.run(["sh", "-ec", script], check=check)
        return done.stdout + done.stderr

    def play(self, folder: Path, *words: str, **variables: Any) -> dict[str, Any]:
        """Run the role; the recap's numbers by name, and all that was said."""
        inventory = folder / "hosts.json"
        inventory.write_text(json.dumps({"all": {"hosts": {self.node.name: self.node.connection()}}}))
        playbook = folder / "layout.yml"
        play = {"hosts": "all", "become": True, "gather_facts": False, "vars": variables}
        playbook.write_text(yaml.safe_dump([{**play, "roles": ["hpc.compute.gpu_layout"]}]))
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", inventory, playbook, *words],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
                "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            timeout=180,
        )
        recap = dict(re.findall(r"(ok|changed|failed|unreachable)=(\d+)", done.stdout))
        return {**{key: int(value) for key, value in recap.items()}, "said": done.stdout + done.stderr}

    def start_slurm(self) -> None:
        """Configure Slurm with the devices that are here and start all of it; gres.conf is the unit's business."""
        gres = self.run("gpu-layout gres").splitlines()[0].removeprefix("Gres=")
        hardware = re.sub(r" Gres=\S+", "", self.run("slurmd -C").splitlines()[0])
        conf = _SLURM_CONF.format(host=self.node.name, hardware=hardware, gres=gres)
        (self.node.root / "etc/slurm/slurm.conf").write_text(conf)
        (self.node.root / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=disabled\n")
        self.run(
            "install -d -o slurm -g slurm /var/lib/slurm/slurmctld /var/log/slurm; rm /usr/sbin/policy-rc.d;"
            "systemctl enable --quiet munge slurmctld slurmd; systemctl start munge slurmctld slurmd"
        )

    def power_cycle(self, gpus: str | None = None) -> None:
        """Off and on again; *gpus*: with other boards in it."""
        self.run("sync")
        nspawn.kill(self.node.name)
        if gpus is not None:
            settings = self.node.root / "etc/emulated-gpu.conf"
            settings.write_text(re.sub(r"(?m)^EMULATED_GPUS=.*", f"EMULATED_GPUS={gpus}", settings.read_text()))
        nspawn.boot(self.node.name, self.node.root, self.node.folder / "console.log")
        wait_for("the node to answer", self._answers, seconds=60)
        # Also a unit that failed ends the wait, which is what some tests are about.
        self.node.run(["systemctl", "is-system-running", "--wait"], check=False)

    def _answers(self) -> bool:
        return self.node.run(["true"], check=False, timeout=20).returncode == 0

    def registered(self) -> str:
        """GRES of the node as the controller has it, once it is idle."""
        shown = ""

        def idle() -> bool:
            nonlocal shown
            shown = self.run(f"scontrol show node {self.node.name}", check=False)
            return bool(re.search(r"State=IDLE\s", shown))

        try:
            wait_for("the node to be idle", idle, seconds=40)
        except RigError as error:
            raise AssertionError(f"{error}: {shown}\n{self.status()}") from error
        found = re.search(r"\bGres=(\S+)", shown)
        assert found, shown
        return found[1]

    def status(self) -> str:
        return self.run("systemctl status --no-pager --full gpu-layout.service slurmd.service", check=False)

    def is_active(self, unit: str) -> bool:
        return self.node.run(["systemctl", "--quiet", "is-active", unit], check=False).returncode == 0


@pytest.fixture(scope="module")
def on_node() -> Iterator[LayoutNode]:
    one = LayoutNode()
    one.up()
    try:
        yield one
    finally:
        one.node.down()


def test_role_unit_and_slurm_through_power_cycles(on_node: LayoutNode, tmp_path: Path) -> None:
    chosen = {"gpu_layout_config": LAYOUT, "gpu_layout_selected": "night"}

    # Check mode tells the steps and leaves no trace.
    told = on_node.play(tmp_path, "--check", "--diff", **chosen)
    assert told["failed"] == 0, told["said"]
    assert "+  1g.10gb at slot" in told["said"], told["said"]
    assert not (on_node.node.root / "usr/sbin/gpu-layout").exists()

    done = on_node.play(tmp_path, **chosen)
    assert done["failed"] == 0, done["said"]
    assert done["changed"] > 0, done["said"]

    on_node.start_slurm()
    before = on_node.registered()
    assert before.count("1g.10gb:4") == 1, before
    gres_conf = (on_node.node.root / "etc/slurm/gres.conf").read_text()
    assert "AutoDetect=nvml" in gres_conf

    # Power is lost: Hopper boards come back with MIG off. Nobody does anything by hand.
    on_node.power_cycle()
    assert on_node.registered() == before
    assert on_node.is_active("gpu-layout.service")
    new_conf = (on_node.node.root / "etc/slurm/gres.conf").read_text()
    assert new_conf != gres_conf, "the slices are new ones, with new UUIDs"

    # One more run has nothing to do, and slurmd's restart does not touch the GPUs.
    again = on_node.play(tmp_path, **chosen)
    assert (again["failed"], again["changed"]) == (0, 0), again["said"]

    # Another board is put in: the layout can't be made, and slurmd stays down with the reason in sight.
    on_node.power_cycle("a30,h100-80")
    assert not on_node.is_active("slurmd.service")
    status = on_node.status()
    assert "expected profiles of A30" in status, status
    assert "Dependency failed" in on_node.run("journalctl --no-pager --boot --unit=slurmd.service"), status

    # The right boards are back, in part cut differently by slurm.conf: that is held back, too.
    conf = on_node.node.root / "etc/slurm/slurm.conf"
    right = conf.read_text()
    conf.write_text(right.replace("1g.10gb:4", "1g.10gb:5"))
    on_node.power_cycle("2xh100-80")
    assert not on_node.is_active("slurmd.service")
    assert "1g.10gb" in on_node.status()
    conf.write_text(right)
    # What held it back is put right: starting slurmd tries both again.
    on_node.run("systemctl restart slurmctld; systemctl start slurmd")
    assert on_node.registered() == before


def test_a_machine_without_gpu_boots_and_says_so(on_node: LayoutNode, tmp_path: Path) -> None:
    conf = on_node.node.root / "etc/slurm/slurm.conf"
    conf.write_text(re.sub(r" Gres=\S+", "", conf.read_text()))
    on_node.power_cycle("none")
    assert on_node.is_active("gpu-layout.service"), on_node.status()
    assert "no NVIDIA GPU was found on this machine" in on_node.status()
    assert on_node.is_active("slurmd.service")

    # As in an image build: the layout is checked and stored, and no GPU is looked for.
    stored = on_node.node.root / "etc/hpc-compute/gpu-layout.yml"
    stored.unlink()
    built = on_node.play(tmp_path, gpu_layout_config=LAYOUT, gpu_layout_selected="night", hpc_image_build=True)
    assert (built["failed"], built["changed"]) == (0, 1), built["said"]
    assert yaml.safe_load(stored.read_text()) == LAYOUT
