#!/usr/bin/python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside a node as the task of a job: a line of JSON with what it got. Standard library only."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path


def may_open(path: Path) -> bool:
    """Whether a control group lets this process open it; no driver is behind emulated device files."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES)
    return True


def main() -> None:
    paths = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev/nvidia-caps").glob("*")]
    answer = {
        "task": int(os.environ.get("SLURM_PROCID", "0")),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "files": sorted(map(str, filter(may_open, paths))),
    }
    # One write, so that lines of tasks beside each other stay whole.
    os.write(1, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main()
