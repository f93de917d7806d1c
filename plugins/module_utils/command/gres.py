# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""gres.conf at boot: written from the devices that are there now, or not at all when slurm.conf means others."""

from __future__ import annotations

import os
from pathlib import Path

from ..gpu.model import Inventory
from ..slurm.cpus import read_topology
from ..slurm.plan import plan_gres
from ..slurm.static import UUID_MAP
from ..slurm.stored import Stored, read_stored
from .slurm_conf import SLURM_CONF, node_gres


def refresh(inventory: Inventory, root: Path) -> str:
    """Bring gres.conf and the TaskProlog's map of UUIDs in line with *inventory*; a sentence about what was done.

    Device files and UUIDs of slices are others after each boot. There is nothing to do on a node that gets all of its
    configuration from the controller (no slurm.conf, nothing stored by the module slurm_gres), and on one whose line
    has no ``Gres=``.

    :raises GresRefusedError: the devices are not what this node's ``Gres=`` in slurm.conf means: slurmd must not start.
    :raises SlurmConfError: slurm.conf can't be read.
    :raises StoredError: what is stored can't be read.
    :raises OSError: gres.conf can't be written.
    """
    stored = read_stored(root)
    # slurm.conf says what Slurm expects of the node, so it counts where there is one.
    wanted = node_gres(root)
    if wanted is None and stored is not None:
        wanted = stored.gres
    if wanted is None:
        return f"no line for this node in {root / SLURM_CONF}: gres.conf is left alone"
    if not wanted:
        return f"{root / SLURM_CONF} offers no Gres of this node: gres.conf is left alone"
    how = stored or Stored()
    plan = plan_gres(inventory, read_topology(root), mode=how.mode, wanted=wanted, allow_unlisted=how.allow_unlisted)
    path = root / how.path.lstrip("/")
    if stored is not None:
        # The map first: a job must never meet a gres.conf whose devices the map does not know.
        write(root / UUID_MAP, plan.uuid_map)
    return f"{path} {'written' if write(path, plan.text) else 'is up to date'}: Gres={plan.gres}"


def write(path: Path, text: str) -> bool:
    """Replace a file as a whole, if it differs; whether it did. Its owner and mode stay; its directory is made.

    A link stays one: what it points to is replaced.

    :raises OSError: it can't be written.
    """
    path = Path(os.path.realpath(path))
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
        status = path.stat()
        owner, mode = (status.st_uid, status.st_gid), status.st_mode & 0o7777
    except (FileNotFoundError, UnicodeDecodeError):
        owner, mode = (os.geteuid(), os.getegid()), 0o644
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
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
