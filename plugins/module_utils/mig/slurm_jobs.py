# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm jobs that run on this machine: each may have been given a GPU or a slice that it has not opened yet.

The driver knows processes only from the moment they use CUDA. A job that Slurm has promised a slice to loses it all the
same when the slice is cut away before. Slurm's own step daemon tells of it without a controller to ask: it writes
``slurmstepd: [JOB.STEP]`` over its command line.
"""

from __future__ import annotations

import re
from pathlib import Path

_STEP = re.compile(r"slurmstepd: \[(\d+)\.")


def running_jobs(proc: Path = Path("/proc")) -> list[int]:
    """Ids of the jobs with a step on this machine, ascending. Jobs in containers on it are not its own: left out."""
    here = _namespace(proc / "self")
    found: set[int] = set()
    for directory in proc.glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        step = _STEP.match(command)
        if step and _namespace(directory) == here:
            found.add(int(step[1]))
    return sorted(found)


def _namespace(process: Path) -> str | None:
    try:
        return str((process / "ns/pid").readlink())
    except OSError:
        return None  # not ours to look at, or it has ended
