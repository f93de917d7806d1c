# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From an inventory to everything that Slurm is told about a machine's GPUs, or the reason why it must not be told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..gpu.model import Inventory, Problem
from .binding import Binding
from .cpus import CpuTopology
from .devices import Device, devices
from .gres import (
    GresEntry,
    GresSyntaxError,
    accounting_tres,
    format_gres,
    gres_conf,
    gres_of,
    gres_types,
    parse_gres,
)
from .match import check

#: Problems in spite of which the list of devices is complete and right.
_HARMLESS = ("board_unknown", "mode_change_pending")
#: Problems that end when what a role installs is installed.
_NOT_INSTALLED = ("driver_missing", "nvml_library_missing", "pynvml_missing", "driver_not_responding")
#: Slurm needs a line of its own in gres.conf to share GPUs, and what MIG slices then do is not documented.
_SHARED = ("mps", "shard")


class GresRefusedError(Exception):
    """Slurm must not be configured so; the message tells every reason. *problems* are those of the inventory."""

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class GresPlan:
    """*text* is that of gres.conf, *gres* the node's ``Gres=``; *bindings* is what Slurm makes of the two."""

    text: str
    gres: str
    gres_types: list[str]
    accounting_tres: list[str]
    devices: list[Device]
    bindings: tuple[Binding, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def plan_gres(
    inventory: Inventory,
    topology: CpuTopology | None = None,
    *,
    wanted: str | None = None,
    allow_unlisted: bool = False,
    ignore_problems: bool = False,
    not_installed_yet: bool = False,
) -> GresPlan:
    """Decide what Slurm is told.

    :param wanted: the ``Gres=`` value to use, when it isn't to be every device under its full type name.
    :param allow_unlisted: accept that *wanted* leaves devices out.
    :param ignore_problems: go on without the GPUs that can't be read.
    :param not_installed_yet: as *ignore_problems*, for drivers and libraries that are missing; and where GPUs can't be
        read because of them, *wanted* is taken as it is.
    :raises GresRefusedError: the GPUs can't be known, or *wanted* is not what this machine's Slurm would make of it.
    """
    blocking = [problem for problem in inventory.problems if problem.code not in _HARMLESS]
    tolerated = blocking if ignore_problems else []
    if not_installed_yet and not ignore_problems:
        tolerated = [problem for problem in blocking if problem.code in _NOT_INSTALLED]
    serious = [problem for problem in blocking if problem not in tolerated]
    if serious:
        raise GresRefusedError("; ".join(problem.message for problem in serious), inventory.problems)
    # A GPU with MIG on but not cut is listed by slurmd, but no job could use it: it must not be offered.
    uncut = {problem.pci_address for problem in tolerated if problem.code == "mig_without_instances"}
    found = devices(inventory, topology)
    usable = [device for device in found if device.pci_address not in uncut]
    unread = bool(tolerated) and not_installed_yet and not usable
    entries = _entries(wanted, usable)
    bindings: tuple[Binding, ...] = ()
    if not unread:
        bindings = _checked(entries, found, usable, allow_unlisted)
    return GresPlan(
        text=gres_conf(usable, gpus_present=bool(inventory.gpus)),
        gres=format_gres(entries),
        gres_types=gres_types(entries),
        accounting_tres=accounting_tres(entries),
        devices=usable,
        bindings=bindings,
        problems=inventory.problems,
        warnings=tuple(problem.message for problem in inventory.problems if problem not in serious),
    )


def _entries(wanted: str | None, usable: list[Device]) -> list[GresEntry]:
    if wanted is None:
        return gres_of(usable)
    try:
        entries = parse_gres(wanted)
    except GresSyntaxError as error:
        raise GresRefusedError(str(error)) from error
    shared = sorted({entry.name for entry in entries if entry.name in _SHARED})
    if shared:
        raise GresRefusedError(
            f"Gres={wanted}: {' and '.join(shared)} can't be configured here, as sharing a GPU needs lines of its own "
            "in gres.conf, which would be overwritten; leave it out"
        )
    return entries


def _checked(
    entries: list[GresEntry], found: list[Device], usable: list[Device], allow_unlisted: bool
) -> tuple[Binding, ...]:
    verdict = check(entries, found, allow_unlisted=allow_unlisted)
    outcome = verdict.outcome
    refusals = list(verdict.refusals)
    if outcome is not None and not set(outcome.ignored) & set(usable):
        refusals = [refusal for refusal in refusals if refusal.code != "too_few"]
    reasons = [refusal.message for refusal in refusals]
    if outcome is not None:
        reasons += [
            f"Slurm would offer {one.device} as {one.label or 'gpu'}, but MIG is on there and it has no instance"
            for one in outcome.bindings
            if one.device not in usable
        ]
    if outcome is None or reasons:
        message, everything = "; ".join(reasons), format_gres(gres_of(usable)) or "(nothing)"
        if everything not in message:
            message += f". Every device of this machine is in Gres={everything}"
        raise GresRefusedError(message)
    return outcome.bindings
