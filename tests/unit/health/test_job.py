# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices and which processes are a job's; somebody else's never are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health.job import (
    Job,
    JobDevice,
    belongs_to,
    devices_of,
    job_of,
    read_map,
)

DEVICES = [
    JobDevice("0", "GPU-a", ("/dev/nvidia0",)),
    JobDevice("1", "MIG-b", ("/dev/nvidia1", "/dev/cap1", "/dev/cap2")),
    JobDevice("2", "MIG-c", ("/dev/nvidia1", "/dev/cap1", "/dev/cap3")),
]


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, Job("", None, ())),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "x", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, Job("7", None, ())),
        (
            {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1001", "CUDA_VISIBLE_DEVICES": "0, MIG-c,"},
            Job("7", 1001, ("0", "MIG-c")),
        ),
    ],
)
def test_what_slurm_says(environ: dict[str, str], job: Job) -> None:
    assert job_of(environ) == job
    assert str(job) == f"job {job.number or '?'}"


def test_the_map(tmp_path: Path) -> None:
    assert read_map(tmp_path) == []
    path = tmp_path / "run/hpc-compute/gpu-uuids"
    path.parent.mkdir(parents=True)
    lines = [f"{one.place} {one.uuid} {','.join(one.files)}" for one in DEVICES]
    path.write_text("\n".join(["# a comment", *lines, "odd", ""]))
    assert read_map(tmp_path) == DEVICES


def test_devices_by_uuid_and_by_place() -> None:
    assert devices_of(Job("7", 1, ("MIG-c", "0")), DEVICES) == [DEVICES[0], DEVICES[2]]
    assert devices_of(Job("7", 1, ("MIG-x", "9")), DEVICES) == []


class Proc:
    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, cgroup: str = "0::/user.slice\n", environ: bytes = b"A=1\0SLURM_JOB_ID=7\0") -> int:
        folder = self.root / str(pid)
        folder.mkdir()
        (folder / "cgroup").write_text(cgroup)
        (folder / "environ").write_bytes(environ)
        return pid


def test_processes_of_a_job(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    uid = tmp_path.stat().st_uid or 1001
    job = Job("7", uid, ())
    proc.add(1)
    proc.add(2, environ=b"SLURM_JOB_ID=77\0")
    proc.add(3, environ=b"MY_SLURM_JOB_ID=7\0")
    proc.add(4, cgroup="0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", environ=b"")
    # A job started inside another one carries the outer number in its environment, and its own group.
    proc.add(5, cgroup="0::/system.slice/slurmstepd.scope/job_8/step_0\n")
    proc.add(6, cgroup="1:devices:/slurm_n1/uid_1/job_7\n0::/\n", environ=b"")
    if os.geteuid() == 0:
        for pid in range(1, 7):
            os.chown(tmp_path / str(pid), uid, -1)
    assert [pid for pid in range(1, 9) if belongs_to(pid, job, tmp_path)] == [1, 4, 6]
    assert not belongs_to(1, Job("7", uid + 1, ()), tmp_path)  # of another user
    assert not belongs_to(1, Job("7", None, ()), tmp_path)
    assert not belongs_to(1, Job("", uid, ()), tmp_path)


def test_roots_processes_are_nobodys(tmp_path: Path) -> None:
    Proc(tmp_path).add(1)
    assert not belongs_to(1, Job("7", 0, ()), tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_a_real_process() -> None:
    child = subprocess.Popen(["sleep", "60"], env={"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]}, user=12345)
    try:
        assert belongs_to(child.pid, Job("7", 12345, ()))
        assert not belongs_to(child.pid, Job("8", 12345, ()))
    finally:
        child.kill()
        child.wait()
    assert not belongs_to(child.pid, Job("7", 12345, ()))
