# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to one job on this node: its devices, as Slurm's prolog and epilog are told them, and its processes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..slurm.static import UUID_MAP

_STEP = re.compile(r"/job_(\d+)(?:/|$)", re.MULTILINE)


@dataclass(frozen=True)
class JobDevice:
    """A device in the map that is kept for the TaskProlog."""

    place: str
    uuid: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A job by what Slurm says in the environment of its programs. *visible*: UUIDs of devices, or their places."""

    number: str
    uid: int | None
    visible: tuple[str, ...]

    def __str__(self) -> str:
        return f"job {self.number or '?'}"


def job_of(environ: Mapping[str, str]) -> Job:
    """The job that a prolog or epilog is run for.

    For a job with devices of several types Slurm 24.11 names those of one type only; it never names another job's.
    """
    uid = environ.get("SLURM_JOB_UID", "")
    words = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return Job(
        environ.get("SLURM_JOB_ID", ""),
        int(uid) if uid.isdecimal() else None,
        tuple(word.strip() for word in words if word.strip() and word.strip() != "NoDevFiles"),
    )


def read_map(root: Path) -> list[JobDevice]:
    """The devices that Slurm offers on this node; none where no map is kept."""
    try:
        text = (root / UUID_MAP).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 3:
            place, uuid, files = words
            found.append(JobDevice(place, uuid, tuple(files.split(","))))
    return found


def devices_of(job: Job, devices: Sequence[JobDevice]) -> list[JobDevice]:
    """The job's devices as far as they are known: what is named by neither UUID nor place is left out."""
    return [one for one in devices if one.uuid in job.visible or one.place in job.visible]


def belongs_to(pid: int, job: Job, proc: Path = Path("/proc")) -> bool:
    """Whether a process is one that *job* left: in its control group, or else started with its number.

    Somebody else's process is never taken for the job's, only the reverse: a process may clear its environment.
    """
    if not job.number or job.uid in (None, 0):
        return False
    folder = proc / str(pid)
    try:
        if folder.stat().st_uid != job.uid:
            return False
        groups = _STEP.findall((folder / "cgroup").read_text(encoding="utf-8", errors="replace"))
        if groups:
            return str(groups[-1]) == job.number
        environment = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended
    return f"SLURM_JOB_ID={job.number}".encode() in environment
