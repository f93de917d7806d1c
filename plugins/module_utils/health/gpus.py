# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver says of the GPUs, compared with what is stored and what Slurm expects.

Runs in a process of its own (:mod:`.probe`), as any call may hang. The findings come back by the name of their check.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..command.settings import LAYOUT, SettingsError, read_entries
from ..command.settings import read_settings as read_layout_settings
from ..command.slurm_conf import SlurmConfError, node_gres
from ..gpu import nvml
from ..gpu.inventory import read_inventory
from ..gpu.memory_errors import memory_errors
from ..gpu.model import Inventory, Problem
from ..gpu.nvml import Loader, NvmlCode, NvmlError
from ..mig.apply import look
from ..mig.apply_prepare import Host
from ..mig.checkpoint import CheckpointError
from ..mig.explain import Infeasible
from ..mig.layout import LayoutError
from ..mig.lock import LOCK
from ..slurm.plan import GresRefusedError, plan_gres
from ..slurm.stored import Stored, StoredError, read_stored
from .model import Finding, Found, Level, fault, note, unknown
from .settings import Settings

#: The checks that need the driver.
CHECKS = ("driver", "gpus", "ecc", "layout", "devices", "gres")
#: Those that mean nothing while the layout is being changed.
_OF_LAYOUT = ("layout", "devices", "gres")

# Which check a problem of the inventory belongs to, and how bad it is.
_PROBLEMS: dict[str, tuple[str, Level]] = {
    "driver_missing": ("driver", "fault"),
    "driver_not_responding": ("driver", "fault"),
    "version_mismatch": ("driver", "fault"),
    "wrong_kernel_driver": ("driver", "note"),  # on purpose, where a GPU is a virtual machine's
    "nvml_library_missing": ("driver", "unknown"),
    "pynvml_missing": ("driver", "unknown"),
    "nvml_function_missing": ("driver", "note"),
    "gpu_lost": ("gpus", "fault"),
    "gpu_unreadable": ("gpus", "fault"),
    "sysfs_unreadable": ("gpus", "note"),
    "capability_files_missing": ("devices", "fault"),
    "mig_without_instances": ("layout", "note"),
    "mode_change_pending": ("layout", "note"),
}


def look_at_gpus(root: Path, load: Loader, settings: Settings) -> Found:
    """All findings, by check."""
    found: Found = {name: [] for name in CHECKS}
    inventory = read_inventory(root, load)
    for problem in inventory.problems:
        if problem.code in _PROBLEMS:
            check, level = _PROBLEMS[problem.code]
            found[check].append(Finding(level, problem.pci_address or "", _first_sentence(problem)))
    if any(one.level != "note" for one in found["driver"]):
        return found  # what nobody tells can't be compared: the driver's silence is the finding
    if settings.mode("ecc") != "off":
        found["ecc"] += _ecc(inventory, load, settings)
    if settings.mode("layout") != "off":
        found["layout"] += _layout(root, load)
    if settings.mode("gres") != "off":
        found["gres"] += _gres(inventory, root)
    if _being_changed(root):
        for name in _OF_LAYOUT:
            found[name] = [unknown("", "the layout of the GPUs is just being changed")] if found[name] else []
    return found


def _first_sentence(problem: Problem) -> str:
    # The advice behind the semicolon is for a person who installs the node; gpu_info has it.
    return problem.message.partition("; ")[0]


def _ecc(inventory: Inventory, load: Loader, settings: Settings) -> Iterable[Finding]:
    driven = [gpu.pci_address for gpu in inventory.gpus if gpu.index is not None]
    if not driven:
        return
    with nvml.session(load) as library:
        for address in driven:
            try:
                errors = memory_errors(library, address)
            except NvmlError as error:
                if error.code != NvmlCode.GPU_IS_LOST:  # which is told by another check
                    yield unknown(address, f"memory errors could not be read: {error}")
                continue
            if errors.remap_failed:
                yield fault(address, "GPU memory: remapping a faulty row failed, the board needs service")
            if errors.remap_pending:
                yield fault(address, "GPU memory: a faulty row waits to be remapped, reset the GPU")
            if (errors.uncorrected or 0) > settings.uncorrected_errors:
                yield fault(address, f"GPU memory: {errors.uncorrected} uncorrected ECC errors, reset the GPU")


def _layout(root: Path, load: Loader) -> Iterable[Finding]:
    path = root / LAYOUT
    if not path.exists():
        return
    try:
        stored = read_layout_settings(root)
        # Whether instances are in use decides what may be changed, and not what is there.
        options = replace(stored.options, on_busy="destroy")
        plan = look(read_entries(path, stored.config), options, Host(root=root, load=load)).plan
    except (LayoutError, SettingsError, CheckpointError) as error:
        yield unknown("", f"the stored layout could not be compared: {error}")
        return
    for outcome in plan.outcomes:
        if isinstance(outcome.result, Infeasible):
            yield note(outcome.gpu.pci_address, f"the stored layout can't be had here: {outcome.result.message}")
        elif outcome.result is not None and outcome.result.changed:
            yield fault(outcome.gpu.pci_address, "the GPU is cut otherwise than the stored layout (gpu-layout plan)")
    for problem in plan.missing:
        yield fault(problem.pci_address or "", f"the stored layout names a GPU that is not here: {problem.message}")


def _gres(inventory: Inventory, root: Path) -> Iterable[Finding]:
    try:
        stored = read_stored(root)
        wanted = node_gres(root)
    except (StoredError, SlurmConfError) as error:
        yield unknown("", f"what Slurm expects is not known: {error}")
        return
    if wanted is None and stored is not None:
        wanted = stored.gres
    if not wanted:
        return
    how = stored or Stored()
    try:
        plan_gres(
            inventory,
            mode=how.mode,
            wanted=wanted,
            allow_unlisted=how.allow_unlisted,
            ignore_problems=True,  # each has been told by its own check
        )
    except GresRefusedError as error:
        yield fault("", f"the devices are not those of Slurm's Gres={wanted}: {error}")


def _being_changed(root: Path) -> bool:
    try:
        with (root / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # nobody ever changed it
    return False
