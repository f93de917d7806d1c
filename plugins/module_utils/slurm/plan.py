# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From an inventory to everything that Slurm is told about a machine's GPUs, or the reason why it must not be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

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
from .match import Check, check
from .sharing import KINDS, Sharing, SharingError, share
from .static import check_static, static_conf, static_entries, uuid_map

#: Problems in spite of which the list of devices is complete and right.
_HARMLESS = ("board_unknown", "mode_change_pending")
#: Problems that end when what a role installs is installed.
_NOT_INSTALLED = ("driver_missing", "nvml_library_missing", "pynvml_missing", "driver_not_responding")


class GresRefusedError(Exception):
    """Slurm must not be configured so; the message tells every reason. *problems* are those of the inventory."""

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class GresMode:
    """How Slurm is told.

    *autodetect*: ``nvml``, or ``off`` for static mode, see :mod:`.static`. *types*: the site's names in static mode, by
    detected type or pattern. *shared*: how GPUs are shared, see :func:`.sharing.share`.
    """

    autodetect: Literal["nvml", "off"] = "nvml"
    types: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class GresPlan:
    """*text* is that of gres.conf, *gres* the node's ``Gres=``; *bindings* is what Slurm makes of the two.

    *uuid_map* is the text of the map for the TaskProlog, see :mod:`.static`; empty where nothing is offered.
    """

    text: str
    gres: str
    gres_types: list[str]
    accounting_tres: list[str]
    devices: list[Device]
    bindings: tuple[Binding, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    uuid_map: str = ""


def plan_gres(
    inventory: Inventory,
    topology: CpuTopology | None = None,
    *,
    mode: GresMode | None = None,
    wanted: str | None = None,
    allow_unlisted: bool = False,
    ignore_problems: bool = False,
    not_installed_yet: bool = False,
) -> GresPlan:
    """Decide what Slurm is told.

    :param mode: detection by NVML when not given.
    :param wanted: the ``Gres=`` value to use, when it isn't to be every device under its full type name, or the site's.
    :param allow_unlisted: accept that *wanted* leaves devices out.
    :param ignore_problems: go on without the GPUs that can't be read.
    :param not_installed_yet: as *ignore_problems*, for drivers and libraries that are missing; and where GPUs can't be
        read because of them, *wanted* is taken as it is.
    :raises GresRefusedError: the GPUs can't be known, or *wanted* is not what this machine's Slurm would make of it.
    """
    mode = mode or GresMode()
    if mode.types and mode.autodetect != "off":
        raise GresRefusedError(
            "types need autodetect off: with AutoDetect=nvml Slurm makes the names itself, and a name in Gres= must "
            "occur in a detected one"
        )
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
    entries = _entries(wanted, usable, mode)
    bindings: tuple[Binding, ...] = ()
    sharing = Sharing()
    if not unread:
        bindings = _checked(entries, found, usable, allow_unlisted, mode)
        sharing = _shared(entries, bindings, mode, given=wanted is not None)
        entries = [*(entry for entry in entries if entry.name not in KINDS), *sharing.entries]
    static = mode.autodetect == "off" and bool(inventory.gpus)
    return GresPlan(
        text=static_conf(bindings, sharing.lines, topology)
        if static
        else gres_conf(usable, gpus_present=bool(inventory.gpus), shared=sharing.lines),
        gres=format_gres(entries),
        gres_types=gres_types(entries),
        accounting_tres=accounting_tres(entries),
        devices=usable,
        bindings=bindings,
        problems=inventory.problems,
        warnings=(
            *(problem.message for problem in inventory.problems if problem not in serious),
            *_detection_warnings(bindings, topology, mode),
        ),
        uuid_map=uuid_map(bindings) if bindings else "",
    )


def _entries(wanted: str | None, usable: list[Device], mode: GresMode) -> list[GresEntry]:
    if wanted is None:
        return static_entries(usable, mode.types) if mode.autodetect == "off" else gres_of(usable)
    try:
        return parse_gres(wanted)
    except GresSyntaxError as error:
        raise GresRefusedError(str(error)) from error


def _shared(entries: list[GresEntry], bindings: tuple[Binding, ...], mode: GresMode, *, given: bool) -> Sharing:
    """Lines and entries for shared GPUs. Those that the site wrote into ``Gres=`` itself must be the same."""
    unknown = sorted(set(mode.shared) - set(KINDS))
    if unknown:
        raise GresRefusedError(f"expected to share GPUs by {' or '.join(KINDS)}, found {', '.join(unknown)}")
    try:
        sharing = share(bindings, mode.shared)
    except SharingError as error:
        raise GresRefusedError(str(error)) from error
    written = {entry.name: str(entry) for entry in entries if entry.name in KINDS}
    derived = {entry.name: str(entry) for entry in sharing.entries}
    if given and written and written != derived:
        raise GresRefusedError(
            f"Gres= has {' and '.join(written.values())}, but gres.conf is to share GPUs as "
            f"{' and '.join(derived.values()) or 'nothing'}, and the two must agree: leave them out of Gres=, and say "
            "with shards or mps how many each GPU has"
        )
    return sharing


def _checked(
    entries: list[GresEntry], found: list[Device], usable: list[Device], allow_unlisted: bool, mode: GresMode
) -> tuple[Binding, ...]:
    static = mode.autodetect == "off"
    if static:
        verdict = check_static(entries, usable, mode.types, allow_unlisted=allow_unlisted)
    else:
        verdict = check(entries, found, allow_unlisted=allow_unlisted)
    reasons = _reasons(verdict, usable)
    if verdict.outcome is None or reasons:
        everything = format_gres(static_entries(usable, mode.types) if static else gres_of(usable)) or "(nothing)"
        message = "; ".join(reasons)
        if everything not in message:
            message += f". Every device of this machine is in Gres={everything}"
        raise GresRefusedError(message)
    if not static:
        _check_links(verdict.outcome.bindings)
    return verdict.outcome.bindings


def _reasons(verdict: Check, usable: list[Device]) -> list[str]:
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
    return reasons


def _check_links(bindings: tuple[Binding, ...]) -> None:
    longest = max((len(one.device.links) for one in bindings), default=0)
    if longest > len(bindings):
        raise GresRefusedError(
            f"slurmd would report NVLinks between all {longest} GPUs that it detects, while {len(bindings)} are "
            'offered, at which the controller sets the node to INVAL ("Invalid GRES Links value"). Offer every device, '
            "or use static mode (autodetect off), which names the links between offered devices only"
        )


def _detection_warnings(bindings: tuple[Binding, ...], topology: CpuTopology | None, mode: GresMode) -> tuple[str, ...]:
    """What the controller makes of detected cores and links, and gres.conf can't change while AutoDetect is on."""
    if mode.autodetect == "off":
        return ()
    found = []
    split = next((one for one in bindings if topology and topology.splits_a_socket(one.device.cores or "")), None)
    if split is not None:
        found.append(
            f"the driver says that {split.device} is near cores {split.device.cores}, a part of a socket only, at "
            'which the controller sets the node to INVAL ("doesn\'t match socket boundaries"): set SlurmdParameters='
            "numa_node_as_socket or l3cache_as_socket in slurm.conf, or use static mode (autodetect off), which names "
            "whole sockets"
        )
    whole = [one.device for one in bindings if one.device.kind == "gpu"]
    moved = [device for place, device in enumerate(whole) if device.links and device.links.index(-1) != place]
    if moved and len(whole) > 1:
        found.append(
            f"{moved[0]} comes after a GPU that is cut, so Slurm misplaces its NVLinks: a job that asks for several "
            'whole GPUs of this node may get fewer and fail ("Unable to create step"). Cut the last GPUs instead of '
            "the first ones, or use static mode (autodetect off)"
        )
    return tuple(found)
