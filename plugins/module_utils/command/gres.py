# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""gres.conf at boot: written from the devices that are there now, or not at all when slurm.conf means others."""

from __future__ import annotations

import os
from pathlib import Path

from ..gpu.model import Inventory
from ..slurm.cpus import read_topology
from ..slurm.plan import plan_gres
from .slurm_conf import SLURM_CONF, node_gres

GRES_CONF = Path("etc/slurm/gres.conf")


def refresh(inventory: Inventory, root: Path) -> str:
    """Bring gres.conf in line with *inventory*; a sentence about what was done.

    Device files and UUIDs of slices are others after each boot. On a node that gets its configuration from the
    controller (no slurm.conf), and on one whose line has no ``Gres=``, there is nothing to do.

    :raises GresRefusedError: the devices are not what this node's ``Gres=`` in slurm.conf means: slurmd must not start.
    :raises SlurmConfError: slurm.conf can't be read.
    :raises OSError: gres.conf can't be written.
    """
    wanted = node_gres(root)
    if wanted is None:
        return f"no line for this node in {root / SLURM_CONF}: gres.conf is left alone"
    path = root / GRES_CONF
    if not wanted:
        return f"{root / SLURM_CONF} offers no Gres of this node: gres.conf is left alone"
    plan = plan_gres(inventory, read_topology(root), wanted=wanted)
    return f"{path} {'written' if write(path, plan.text) else 'is up to date'}: Gres={plan.gres}"


def write(path: Path, text: str) -> bool:
    """Replace a file as a whole, if it differs; whether it did. Its owner and mode stay.

    :raises OSError: it can't be written.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
        status = path.stat()
        owner, mode = (status.st_uid, status.st_gid), status.st_mode & 0o7777
    except (FileNotFoundError, UnicodeDecodeError):
        owner, mode = (os.geteuid(), os.getegid()), 0o644
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return True
