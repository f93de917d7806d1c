# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of a fleet's new facts the controller may be told now: jobs on a node whose line changes would be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from .fleet import FleetFiles, NodeFacts, fleet_files
from .fleet_change import FleetChange, classify
from .hostlist import fold, sort_key
from .states import Node

_GONE = "it is to be taken out"


@dataclass(frozen=True)
class Present:
    """What the controller has: its files, and their nodes."""

    nodes_conf: str
    gres_conf: str
    nodes: Mapping[str, NodeFacts]


@dataclass(frozen=True)
class Standing:
    """How the nodes stand: as the controller has them, and those that jobs hold a part of."""

    nodes: Mapping[str, Node]
    with_jobs: Set[str]


@dataclass(frozen=True)
class FleetPlan:
    """The texts to be installed, and what they change.

    *held*: nodes whose lines stay as they are as they are in service, each with the reason. *kept*: nodes that nothing
    is known of now; their lines stay, too.
    """

    files: FleetFiles
    nodes_conf: str
    gres_conf: str
    change: FleetChange
    held: Mapping[str, str]
    kept: tuple[str, ...]


def plan_fleet(
    present: Present,
    facts: Iterable[NodeFacts],
    standing: Callable[[], Standing],
    *,
    remove: bool = False,
    memory_tolerance: float = 2.0,
    gres_types: bool = True,
    accounting: bool = False,
) -> FleetPlan:
    """Make the files, with the old lines of nodes that may not change now.

    :param facts: what the nodes say of themselves now. A node that is in the present files only stays as it is.
    :param standing: asked only if a change concerns jobs.
    :param remove: take out the nodes that are in the present files only.
    :raises FleetError, ValueError: see :func:`.fleet_files`, :func:`.classify`.
    """

    def made(nodes: Iterable[NodeFacts]) -> FleetFiles:
        return fleet_files(
            nodes,
            memory_tolerance=memory_tolerance,
            settings=gres_types,
            accounting=accounting,
            before=present.nodes,
        )

    fresh = list(facts)
    known = {one.name for one in fresh}
    absent = [] if remove else [one for name, one in present.nodes.items() if name not in known]
    files = made([*fresh, *absent])
    change = classify(present.nodes_conf, files.nodes_conf)
    held: dict[str, str] = {}
    if change.drain:
        now = standing()
        held = {name: why for name in change.drain if (why := _why_not(name, now))}
    if held:
        files = made(
            [*(one for one in (*fresh, *absent) if one.name not in held), *map(present.nodes.__getitem__, held)]
        )
        wanted = {one.name: one for one in fresh}
        held = {name: f"{_difference(present.nodes[name], wanted.get(name))}, but {why}" for name, why in held.items()}
        change = classify(present.nodes_conf, files.nodes_conf)
    return FleetPlan(
        files,
        # Lines that were divided or put in another order since mean the same.
        nodes_conf=files.nodes_conf if change.action != "none" else present.nodes_conf,
        gres_conf=files.gres_conf,
        change=change,
        held=held,
        kept=tuple(sorted((one.name for one in absent), key=sort_key)),
    )


def _why_not(name: str, now: Standing) -> str:
    node = now.nodes.get(name)
    if node is None:
        return ""  # the controller has not heard of it yet
    if node.ours:
        return f"its layout is being changed, or that failed ({node.reason})"
    if name in now.with_jobs:
        return "jobs run on it, which would be killed"
    if node.drained or "DOWN" in node.states or "FUTURE" in node.states:
        return ""
    return "it is in service, and a job that starts just then would be killed"


def _difference(old: NodeFacts, new: NodeFacts | None) -> str:
    if new is None:
        return _GONE
    before, after = dict(old.words), dict(new.words)
    keys = [key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key)]
    told = [f"{key}={before.get(key, '(none)')} is to become {after.get(key, '(none)')}" for key in keys]
    return ", ".join(told)


def told_of_held(held: Mapping[str, str]) -> list[str]:
    """A sentence for the nodes that are held for the same reason, with what to do."""
    groups: dict[str, list[str]] = {}
    for name in sorted(held, key=sort_key):
        groups.setdefault(held[name], []).append(name)
    return [f"{fold(names)}: {why}. {_way_out(why)}." for why, names in groups.items()]


def _way_out(why: str) -> str:
    if why.startswith(_GONE):
        return "Drain them, wait for their jobs, and run this again"
    if "layout is being changed" in why:
        return "Let the playbook hpc.compute.gpu_layout finish it, or run that again"
    if "Gres=" in why:
        return (
            "Change layouts with the playbook hpc.compute.gpu_layout, which takes nodes out of service for it; or "
            "drain them, wait for their jobs, and run this again"
        )
    return "Drain them, wait for their jobs, and run this again"
