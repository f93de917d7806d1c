# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the rig keeps things: one place for what is worth keeping, one for what lives as long as its nodes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
VENV = REPO / ".venv"
#: Root file systems, downloaded packages, the machine's ssh key. May be deleted when no node is up; costs time only.
CACHE = Path(os.environ.get("HPC_COMPUTE_CACHE") or "/var/cache/hpc-compute")
#: Running nodes and what belongs to them. Gone when the last node is down.
STATE = Path("/var/lib/hpc-compute")
NODES = STATE / "nodes"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the machine-wide lock *name*; waits while another process holds it, and falls with the process."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
