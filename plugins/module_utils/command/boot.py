# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gpu-layout.service does at boot: wait for the driver, apply the stored layout, tell Slurm of the devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..gpu.inventory import read_inventory
from ..gpu.model import Inventory
from ..mig.apply import Outcome, apply
from ..mig.apply_prepare import Host
from .gres import refresh
from .settings import LAYOUT, Settings, read_entries

Say = Callable[[str], None]

#: What passes by itself while a machine boots: udev loads the driver, and the driver starts its GPUs.
_PASSING = frozenset({"driver_missing", "driver_not_responding"})
_POLL_S = 0.5


def wait_for_driver(host: Host, seconds: float) -> Inventory:
    """Read the machine until the driver answers for its GPUs, for *seconds* at most. Without a GPU it does not wait."""
    deadline = time.monotonic() + seconds
    while True:
        inventory = read_inventory(host.root, host.load)
        waiting = bool(inventory.gpus) and any(problem.code in _PASSING for problem in inventory.problems)
        if not waiting or time.monotonic() >= deadline:
            return inventory
        time.sleep(_POLL_S)  # the kernel has no event for "NVML works"


def boot(host: Host, settings: Settings, wait_s: float, say: Say) -> Outcome:
    """Apply what is stored. Without a stored layout only an interrupted change is put straight.

    :raises LayoutError, LockError, CheckpointError: see :func:`..mig.apply.apply`.
    """
    path = host.root / LAYOUT
    inventory = wait_for_driver(host, wait_s)
    stored = path.exists() or path.is_symlink()  # a link to nowhere is a layout that can't be read, not none
    if not stored and inventory.gpus:
        say(f"no layout is stored ({path}): the GPUs are left as they are")
    entries = read_entries(path, settings.config) if stored else ()
    return apply(entries, settings.options, host, lambda result: say(f"GPU {result.pci_address} {result.message}"))


def tell_slurm(inventory: Inventory, root: Path) -> str:
    """Write gres.conf; see :func:`.gres.refresh`."""
    return refresh(inventory, root)
