# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guides for people who run jobs: every command in them, and every job script, on a real node."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored
from integration.lone_cluster import REPO, LoneCluster, tasks_of
from rig.process import wait_for

_TYPES = {"*h100*": "h100", "*_1g.5gb": "a100-1g.5gb", "*_2g.10gb": "a100-2g.10gb", "nvidia_l40s": "l40s"}
_CUT = "2xa100-40=1g.5gb*2:2g.10gb,2xh100-80"
#: Of each script: kinds of device that its tasks see, sorted, a task each.
_EXAMPLES = {
    "one_gpu": [["any"]],
    "one_slice": [["a100_1g.5gb"]],
    "task_per_gpu": [["a100_1g.5gb"]] * 3,
    "parameter_study": [["a100_1g.5gb"]] * 4,
    "two_programs": [["a100_1g.5gb"]] * 2,
    "linked_pair": [["h100_80gb_hbm3"] * 2],
    "shared_gpu": [["l40s"]],
}


def _serve(cluster: LoneCluster, gpus: str, shared: dict[str, dict[str, int]], gres: str, types: str = "gpu") -> None:
    """Static mode as a site has it: what is stored makes gres.conf and the map at boot."""
    cluster.use_gpus(gpus)
    mode = GresMode("off", _TYPES, shared)
    cluster.run("rm -f /etc/hpc-compute/gpu-layout.yml")
    cluster.write(
        {str(STORED): Stored(mode).text(), "/etc/slurm/slurm.conf": f"NodeName={cluster.node.name} Gres={gres}\n"}
    )
    done = cluster.engine("boot")
    assert done.returncode == 0, done.stderr
    cluster.configure(gres, types=types)
    assert cluster.state() == "idle", cluster.reason()


def _cut(cluster: LoneCluster) -> None:
    _serve(cluster, _CUT, {}, "gpu:a100-1g.5gb:4,gpu:a100-2g.10gb:2,gpu:h100:2")


def _run_examples(cluster: LoneCluster, names: list[str]) -> dict[str, str]:
    """Submit them all, and wait for all; what each wrote."""
    home = cluster.node.root / "home/user"
    shutil.rmtree(home / "examples", ignore_errors=True)
    shutil.copytree(REPO / "docs/examples", home / "examples")
    submit = "; ".join(f"WORKLOAD=/opt/probe.py sbatch --output=%x-%j.out {name}.sbatch" for name in names)
    cluster.run(
        f"chown -R user /home/user/examples; cd /home/user/examples; runuser -u user -- sh -ec {shlex.quote(submit)}"
    )
    wait_for("the jobs to end", lambda: not cluster.run("squeue -h -o %i").strip(), seconds=60)
    found = {}
    for name in names:
        text = (home / f"examples/{name}.sbatch").read_text()
        title = re.search(r"--job-name=(\S+)", text)
        assert title is not None, name
        found[name] = "".join(path.read_text() for path in sorted((home / "examples").glob(f"{title[1]}-*.out")))
    return found


def _kinds(said: str, devices: list[Device]) -> list[list[str]]:
    kinds = {one.uuid: one.type.removeprefix("nvidia_") for one in devices}
    tasks = tasks_of("\n".join(line for line in said.splitlines() if line.startswith("{")))
    return [sorted(kinds[uuid] for uuid in task.visible) for task in tasks]


def test_every_example_is_in_the_guide_and_here() -> None:
    names = {path.stem for path in (REPO / "docs/examples").glob("*.sbatch")}
    assert names == set(_EXAMPLES)
    guide = (REPO / "docs/gpu_workload_examples.md").read_text()
    assert set(re.findall(r"\]\(examples/(\w+)\.sbatch\)", guide)) == names


def test_examples(cluster: LoneCluster) -> None:
    _cut(cluster)
    devices = cluster.devices()
    said = _run_examples(cluster, [name for name in _EXAMPLES if name != "shared_gpu"])
    for name, text in said.items():
        kinds = _kinds(text, devices)
        if name == "one_gpu":
            assert [len(one) for one in kinds] == [1], text
        else:
            assert kinds == _EXAMPLES[name], (name, text)
    tasks = tasks_of(said["task_per_gpu"])
    assert len({task.visible for task in tasks}) == 3
    tasks = tasks_of(said["two_programs"])
    assert len({task.visible for task in tasks}) == 2
    assert "this job computes on MIG-" in said["one_slice"]


def test_the_example_with_a_share(cluster: LoneCluster) -> None:
    _serve(cluster, "l40s", {"shard": {"l40s": 4}}, "gpu:l40s:1,shard:4", "gpu,shard")
    said = _run_examples(cluster, ["shared_gpu"])["shared_gpu"]
    assert _kinds(said, cluster.devices()) == _EXAMPLES["shared_gpu"], said


@pytest.fixture(scope="module")
def commands() -> list[str]:
    text = (REPO / "docs/slurm_gpu_jobs.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_commands_of_the_guide(cluster: LoneCluster, commands: list[str]) -> None:
    assert len(commands) > 10
    _cut(cluster)
    for command in commands:
        script = f"cd /home/user; timeout 30 runuser -u user -- sh -c {shlex.quote(command)}"
        done = cluster.node.run(["sh", "-c", script], check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if "CUDA" in command and command.startswith("srun"):
            assert re.search(r"(MIG|GPU)-", done.stdout), (command, done.stdout)
    wait_for("the jobs to end", lambda: not cluster.run("squeue -h -o %i").strip(), seconds=60)
