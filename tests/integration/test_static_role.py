# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of types of the site's own, through the roles: two nodes and their controller, with and without own files.

One story, told in order: the nodes are configured, jobs run, Slurm's mode and the layout change while the nodes are in
service, and in the end the controller serves the configuration.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rig import inventory, nspawn
from rig.node import Node
from rig.process import wait_for

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
_NAMES = {"nvidia_a100*_1g.5gb": "a100-1g.5gb", "nvidia_a100*_3g.20gb": "a100-3g.20gb", "nvidia_h100*": "h100"}
_DAY = "gpu:a100-1g.5gb:7,gpu:h100:1"
_NIGHT = "gpu:a100-1g.5gb:3,gpu:a100-3g.20gb:1,gpu:h100:1"
_LAYOUT = {
    "version": "v1",
    "mig-configs": {
        "day": [{"devices": ["*A100*"], "mig-enabled": True, "mig-devices": {"1g.5gb": 7}}],
        "night": [{"devices": ["*A100*"], "mig-enabled": True, "mig-devices": {"1g.5gb": 3, "3g.20gb": 1}}],
    },
}
_PROLOG = '#!/bin/sh\necho "export SITE=$CUDA_VISIBLE_DEVICES"\n'
_EMULATOR = "cd /opt/emulated-gpu && python3 -S -m emulator"


class Cluster:
    """Controller, a node with a cut and a whole GPU, and one whose two GPUs are shared."""

    def __init__(self, folder: Path) -> None:
        self.controller = Node("it-st-ctl", "10.213.97.90", image="controller")
        self.cut = Node("it-st-cut", "10.213.97.91")
        self.shared = Node("it-st-two", "10.213.97.92")
        self.folder = folder
        self.nodes = (self.cut, self.shared)
        self.own: dict[Node, dict[str, Any]] = {
            self.cut: {
                "slurm_compute_gres_autodetect": "off",
                "slurm_compute_gres_types": _NAMES,
            },
            self.shared: {"slurm_compute_shards": {"nvidia_l40s": 4}, "slurm_compute_mps": {"tesla_t4": 100}},
        }
        # The rig's own, and less memory for each job, so that all of the eight devices can be used at a time.
        rig = yaml.safe_load((REPO / "tests/rig/group_vars/compute.yml").read_text())["slurm_compute_slurm_conf"]
        for own in self.own.values():
            own["slurm_compute_slurm_conf"] = {**rig, "DefMemPerCPU": 100}
        self.everywhere: dict[str, Any] = {"slurm_compute_task_prolog": "/opt/site_prolog"}

    def up(self) -> None:
        self.controller.up()
        self.cut.up(gpus="a100-40=1g.5gb*7,h100-80")
        self.shared.up(gpus="l40s,t4")
        for node in (self.controller, *self.nodes):
            node.run(["useradd", "--create-home", "user"])
            (node.root / "opt/site_prolog").write_text(_PROLOG)
            (node.root / "opt/site_prolog").chmod(0o755)
        self.hosts = inventory.write(self.folder / "inventory", self.controller, self.nodes)

    def down(self) -> None:
        for node in (self.controller, *self.nodes):
            node.keep_packages() if node.is_up() else None
            node.down()

    def play(self, name: str, *words: str, **variables: Any) -> tuple[dict[str, dict[str, int]], str]:
        """Run a playbook, or the two roles; the recap's numbers by node, and all that was said."""
        data = json.loads(self.hosts.read_text())
        compute = data["all"]["children"]["compute"]
        compute["vars"] |= self.everywhere
        for node in self.nodes:
            compute["hosts"][node.name] |= self.own[node]
        own = self.hosts.with_name("now.json")
        own.touch(mode=0o600)
        own.write_text(json.dumps(data))
        if name == "roles":
            book = self.folder / "roles.yml"
            roles = ["hpc.compute.gpu_layout", "hpc.compute.slurm_compute"]
            play = {"hosts": "compute", "become": True, "gather_facts": False, "roles": roles}
            book.write_text(yaml.safe_dump([play]))
            name = str(book)
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", own, name, "-e", json.dumps(variables), *words],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
                "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=900,
        )
        recap = {
            host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", numbers)}
            for host, numbers in re.findall(r"(?m)^(\S+)\s+: (ok=.*)$", done.stdout)
        }
        told = re.findall(r"(?m)^(?:\[ERROR\]|fatal: |changed: ).*$", done.stdout)
        return recap, "\n".join(told) + done.stderr

    def change(self, **variables: Any) -> tuple[dict[str, int], str]:
        """Run ``hpc.compute.gpu_layout`` on the node with the cut GPU."""
        recap, said = self.play("hpc.compute.gpu_layout", hpc_hosts=self.cut.name, **variables)
        return recap[self.cut.name], said

    def gres(self, node: Node) -> str:
        """What the controller offers of it, sorted, once it is in service."""
        found = ""

        def idle() -> bool:
            nonlocal found
            said = self.controller.run(["scontrol", "--oneliner", "show", "node", node.name], check=False).stdout
            match = re.search(r" Gres=(\S+) .* State=IDLE ", said)
            found = ",".join(sorted(re.sub(r"\(S:[^)]*\)", "", match[1]).split(","))) if match else ""
            return match is not None

        wait_for(f"{node.name} to be idle", idle, seconds=60, every=0.5)
        return found

    def uuids(self, node: Node) -> dict[str, list[str]]:
        """UUIDs of the devices, by profile or board, as the emulated driver has them."""
        found: dict[str, list[str]] = {}
        for gpu in json.loads(node.run(["sh", "-c", f"{_EMULATOR} show --json"]).stdout)["gpus"]:
            for one in gpu["gpu_instances"]:
                found.setdefault(one["profile"], []).append(one["compute_instances"][0]["uuid"])
            if not gpu["mig_current"]:
                found.setdefault(gpu["board"], []).append(gpu["uuid"])
        return found

    def user(self, node: Node, command: str, check: bool = True) -> str:
        words = ["runuser", "-u", "user", "--", "sh", "-c", f"cd; {command}"]
        return node.run(["timeout", "60", *words], check=check).stdout

    def visible(self, node: Node, request: str) -> str:
        """``CUDA_VISIBLE_DEVICES`` of a job there."""
        command = f"srun -w {node.name} {request} sh -c 'echo =$CUDA_VISIBLE_DEVICES=$SITE'"
        _, visible, site = self.user(node, command).strip().split("=")
        assert site == visible, "the site's own TaskProlog comes last"
        return visible

    def reboot(self, node: Node) -> None:
        node.run(["sync"])
        nspawn.kill(node.name)
        nspawn.boot(node.name, node.root, node.folder / "console.log")
        wait_for(f"{node.name} to answer", lambda: node.run(["true"], check=False, timeout=20).returncode == 0, 60)
        # it answers before its GPUs are cut, and the controller doesn't know yet that it was away
        node.run(["systemctl", "is-system-running", "--wait"], check=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("static"))
    try:
        one.up()
        yield one
    finally:
        one.down()


def test_the_roles_configure_both_nodes(cluster: Cluster) -> None:
    recap, said = cluster.play("roles", "--check", "--diff")
    assert {one["failed"] for one in recap.values()} == {0}, said
    for node in cluster.nodes:
        assert not (node.root / "etc/slurm").exists(), "check mode changed the machine"
        assert not (node.root / "usr/libexec/hpc-compute").exists(), "check mode changed the machine"

    recap, said = cluster.play("roles")
    assert {one["failed"] for one in recap.values()} == {0}, said
    recap, said = cluster.play("tests/rig/controller.yml")
    assert {one["failed"] for one in recap.values()} == {0}, said
    assert cluster.gres(cluster.cut) == _DAY
    offered = cluster.gres(cluster.shared).split(",")
    assert {"gpu:nvidia_l40s:1", "gpu:tesla_t4:1", "mps:tesla_t4:100", "shard:nvidia_l40s:4"} <= set(offered)
    recap, said = cluster.play("roles", slurm_compute_wait_for_registration=True)
    assert {(one["failed"], one["changed"]) for one in recap.values()} == {(0, 0)}, said
    conf = (cluster.shared.root / "etc/slurm/slurm.conf").read_text()
    assert conf == (cluster.cut.root / "etc/slurm/slurm.conf").read_text()
    assert "GresTypes=gpu,mps,shard\n" in conf
    assert "AccountingStorageTRES" not in conf


def test_the_commands_of_a_user(cluster: Cluster) -> None:
    """As they stand in the first document about this project, each with its right device."""
    uuids = cluster.uuids(cluster.cut)
    script = '#!/bin/sh\necho "device=$CUDA_VISIBLE_DEVICES"\n'
    home = cluster.cut.root / "home/user"
    (home / "job.sh").write_text(script)
    (home / "mig_job.sh").write_text(script + "until [ -e go ]; do sleep 0.5; done\n")
    commands = ["sbatch --gres=gpu:1 job.sh", *["sbatch --gres=gpu:a100-1g.5gb:1 mig_job.sh"] * 7]
    jobs = [cluster.user(cluster.cut, command).split()[-1] for command in commands]

    def states() -> list[str]:
        return cluster.user(cluster.cut, "squeue -h -o %t").split()

    wait_for("all seven slices to be used", lambda: states() == ["R"] * 7, seconds=120, every=0.5)
    (home / "go").touch()
    wait_for("the jobs to end", lambda: not states(), seconds=120, every=0.5)

    def device(job: str) -> str:
        for node in cluster.nodes:
            out = node.root / f"home/user/slurm-{job}.out"
            if out.exists():
                return out.read_text().strip().removeprefix("device=")
        raise AssertionError(f"job {job} wrote nothing")

    anything = {uuid for node in cluster.nodes for found in cluster.uuids(node).values() for uuid in found}
    assert device(jobs[0]) in anything
    assert sorted(map(device, jobs[1:])) == sorted(uuids["1g.5gb"]), "side by side each has its own"

    lines = "tty && echo device=$CUDA_VISIBLE_DEVICES\\nexit\\n"
    shell = f"script --quiet --command {shlex.quote('srun --gres=gpu:1 --pty bash')} /dev/null"
    said = cluster.user(cluster.cut, f"printf {shlex.quote(lines)} | {shell}")
    assert "/dev/pts/" in said, said
    found = re.search(r"(?m)^device=(\S+?)\r?$", said)
    assert found is not None, said
    assert found[1] in anything
    assert cluster.visible(cluster.cut, "--gres=gpu:h100:1") == uuids["h100-80"][0]


def test_shares_of_whole_gpus(cluster: Cluster) -> None:
    uuids = cluster.uuids(cluster.shared)
    assert cluster.visible(cluster.shared, "--gres=shard:2") == uuids["l40s"][0]
    assert cluster.visible(cluster.shared, "--gres=gpu:tesla_t4:1") == uuids["t4"][0]
    said = cluster.user(cluster.shared, f"srun -w {cluster.shared.name} --gres=mps:25 env")
    assert f"CUDA_VISIBLE_DEVICES={uuids['t4'][0]}\n" in said
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25\n" in said


def test_a_configuration_that_slurmd_refuses_hurts_no_job(cluster: Cluster) -> None:
    """``slurmd -G`` is content with both. slurmd refuses the one when it starts, and its jobs would miss the other."""
    conf = cluster.cut.root / "etc/slurm/slurm.conf"
    before = conf.read_text()
    job = cluster.user(cluster.cut, f"sbatch -w {cluster.cut.name} --gres=gpu:h100:1 --wrap 'sleep 600'").split()[-1]

    def state() -> str:
        return cluster.user(cluster.cut, f"squeue -h -o %T -j {job}").strip()

    wait_for("the job to run", lambda: state() == "RUNNING", seconds=60, every=0.5)
    rig = cluster.own[cluster.cut]["slurm_compute_slurm_conf"]
    for wrong, words in (
        ({"slurm_compute_slurmd_options": ["--none-such"]}, "unrecognized option '--none-such'"),
        ({"slurm_compute_slurm_conf": {**rig, "TaskPlugin": "task/none_such"}}, "needs task_none_such.so"),
    ):
        refused = {"slurm_compute_hosts": [cluster.cut.name], **wrong}
        recap, said = cluster.play("roles", "--limit", cluster.cut.name, **refused)
        assert recap[cluster.cut.name]["failed"] == 1, said
        assert words in said, said
        assert conf.read_text() == before
        assert cluster.cut.run(["systemctl", "is-active", "slurmd"]).stdout.strip() == "active"
    assert state() == "RUNNING"
    cluster.user(cluster.cut, f"scancel {job}")


def test_a_list_that_does_not_fit_is_found_before_the_cut(cluster: Cluster) -> None:
    # From here on the cut is a layout's, which is what the GPU has already.
    cluster.own[cluster.cut] |= {"gpu_layout_config": _LAYOUT, "gpu_layout_selected": "day"}
    before = cluster.uuids(cluster.cut)
    stale = {"gpu_layout_selected": "night", "slurm_compute_gres": _DAY}
    recap, said = cluster.play("roles", "--limit", cluster.cut.name, slurm_compute_hosts=[cluster.cut.name], **stale)
    assert recap[cluster.cut.name]["failed"] == 1, said
    assert "so none was changed: gpu:a100-1g.5gb:7 asks for 7 and there are 3" in " ".join(said.split()), said
    assert cluster.cut.run(["systemctl", "is-active", "slurmd"]).stdout.strip() == "active"
    numbers, said = cluster.change(**stale)
    assert numbers["failed"] == 1, said
    assert "so none was changed" in said
    assert cluster.uuids(cluster.cut) == before
    assert cluster.gres(cluster.cut) == _DAY


def test_a_node_in_service_changes_its_mode_and_back(cluster: Cluster) -> None:
    numbers, said = cluster.change(slurm_compute_gres_autodetect="nvml", slurm_compute_gres_types={})
    assert (numbers["failed"], numbers["unreachable"]) == (0, 0), said
    assert cluster.gres(cluster.cut) == "gpu:nvidia_a100_1g.5gb:7,gpu:nvidia_h100_80gb_hbm3:1"
    etc = cluster.cut.root / "etc"
    assert "AutoDetect=nvml" in (etc / "slurm/gres.conf").read_text()
    assert json.loads((etc / "hpc-compute/slurm-gres.json").read_text())["types"] == {}
    assert cluster.visible(cluster.cut, "--gres=gpu:nvidia_a100_1g.5gb:1") in cluster.uuids(cluster.cut)["1g.5gb"]
    numbers, said = cluster.change()
    assert (numbers["failed"], numbers["unreachable"]) == (0, 0), said
    assert cluster.gres(cluster.cut) == _DAY
    numbers, said = cluster.change()
    assert numbers["changed"] == 0, said


def test_configless_nodes_keep_a_file_of_their_own(cluster: Cluster) -> None:
    conf = cluster.controller.root / "etc/slurm/slurm.conf"
    (cluster.controller.root / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (cluster.controller.root / "etc/slurm/gres.conf").write_text(
        f"NodeName={cluster.shared.name} AutoDetect=nvml\nInclude /etc/hpc-compute/gres.conf\n"
    )
    (cluster.controller.root / "etc/hpc-compute").mkdir()
    (cluster.controller.root / "etc/hpc-compute/gres.conf").touch()
    right = conf.read_text() + "SlurmctldParameters=enable_configless\n"
    conf.write_text(right.replace("TaskProlog=", "#TaskProlog="))
    cluster.controller.run(["systemctl", "restart", "slurmctld"])
    cluster.everywhere["slurm_compute_config_mode"] = "configless"

    recap, said = cluster.play("roles", slurm_compute_wait_for_registration=True)
    assert recap[cluster.cut.name]["failed"] == 1, said
    assert "Expected TaskProlog=/usr/libexec/hpc-compute/task-prolog in the controller's slurm.conf, found none" in said
    conf.write_text(right)
    cluster.controller.run(["scontrol", "reconfigure"])
    recap, said = cluster.play("roles", slurm_compute_wait_for_registration=True)
    assert {(one["failed"], one["changed"]) for one in recap.values()} == {(0, 0)}, said
    assert not (cluster.cut.root / "etc/slurm/gres.conf").exists()
    assert "Type=a100-1g.5gb" in (cluster.cut.root / "etc/hpc-compute/gres.conf").read_text()
    assert cluster.visible(cluster.cut, "--gres=gpu:h100:1") == cluster.uuids(cluster.cut)["h100-80"][0]
    assert cluster.visible(cluster.shared, "--gres=shard:1") == cluster.uuids(cluster.shared)["l40s"][0]

    # Slices are made anew at boot, with other UUIDs.
    before = cluster.uuids(cluster.cut)["1g.5gb"]
    cluster.reboot(cluster.cut)
    assert cluster.gres(cluster.cut) == _DAY
    assert not set(before) & set(cluster.uuids(cluster.cut)["1g.5gb"])
    assert cluster.visible(cluster.cut, "--gres=gpu:a100-1g.5gb:1") in cluster.uuids(cluster.cut)["1g.5gb"]


def test_a_configless_node_changes_its_layout(cluster: Cluster) -> None:
    cluster.cut.run(
        ["sh", "-c", f"{_EMULATOR} fault nvmlDeviceCreateGpuInstanceWithPlacement --times 1 --error UNKNOWN"]
    )
    numbers, said = cluster.change(gpu_layout_selected="night")
    assert numbers["failed"] == 1, said
    shown = cluster.controller.run(["scontrol", "--oneliner", "show", "node", cluster.cut.name]).stdout
    assert "all is as before" in shown, shown
    assert len(cluster.uuids(cluster.cut)["1g.5gb"]) == 7

    numbers, said = cluster.change(gpu_layout_selected="night")
    assert (numbers["failed"], numbers["unreachable"]) == (0, 0), said
    assert cluster.gres(cluster.cut) == _NIGHT
    uuids = cluster.uuids(cluster.cut)
    assert cluster.visible(cluster.cut, "--gres=gpu:a100-3g.20gb:1") == uuids["3g.20gb"][0]
    assert cluster.visible(cluster.cut, "--gres=gpu:a100-1g.5gb:1") in uuids["1g.5gb"]
