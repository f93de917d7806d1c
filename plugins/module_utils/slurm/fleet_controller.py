# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the facts of all nodes to the files of the controller on which this runs; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .controller_conf import ConfError, ControllerConf, check_conf, read_conf, with_include
from .fleet import NodeFacts, is_ours, read_files
from .fleet_plan import FleetPlan, Present, Standing, plan_fleet, told_of_held
from .gres import GresEntry, parse_gres
from .hostlist import fold
from .lint import lint
from .node_lines import NodeLineError, set_gres
from .publish import pending
from .states import Node
from .takeover import Service, differing, read_text


@dataclass(frozen=True)
class Paths:
    """Where the controller has its files; *gres_conf* beside the others."""

    slurm_conf: Path
    nodes_conf: Path

    @property
    def gres_conf(self) -> Path:
        return self.slurm_conf.parent / "gres.conf"


@dataclass(frozen=True)
class Wishes:
    """*include*: add the line that slurm.conf lacks. *replace*: files that somebody else wrote. *remove*: old nodes."""

    include: bool = False
    replace: bool = False
    remove: bool = False
    memory_tolerance: float = 2.0


@dataclass(frozen=True)
class ControllerPlan:
    """*files*: all that are to be there. *action*: what makes the controller take them over."""

    plan: FleetPlan
    files: dict[Path, str]
    running: bool
    action: Literal["none", "reconfigure", "restart"]
    held: list[str]
    notes: list[str]


def plan_controller(paths: Paths, facts: Sequence[NodeFacts], service: Service, wishes: Wishes) -> ControllerPlan:
    """See what the files should be.

    :raises ConfError: slurm.conf doesn't fit, files are somebody else's, or the linter finds an error.
    :raises PublishError, FleetError, GresSyntaxError, ScontrolError: see there.
    """
    conf = read_conf(paths.slurm_conf, paths.nodes_conf)
    present = _present(paths, wishes.replace)
    running = service.runs()
    if running and pending(paths.slurm_conf).exists():
        present = _as_loaded(present, service.slurm.nodes())

    def standing() -> Standing:
        if not running:
            return Standing({}, frozenset())
        return Standing(service.slurm.nodes(), service.slurm.nodes_with_jobs())

    names = {one.name for one in facts} | (set() if wishes.remove else set(present.nodes))
    entries = _entries([*facts, *present.nodes.values()])
    gres_types, accounting, notes = check_conf(conf, sorted(names), entries)
    plan = plan_fleet(
        present,
        facts,
        standing,
        remove=wishes.remove,
        memory_tolerance=wishes.memory_tolerance,
        gres_types=gres_types,
        accounting=accounting,
    )
    notes += _linted(plan)
    if plan.kept:
        notes.append(
            f"this run knows nothing of {fold(plan.kept)}: their lines stay as they are. With "
            "slurm_controller_nodes_remove: true they are taken out, unless they have jobs or are in service"
        )
    files = {paths.nodes_conf: plan.nodes_conf, paths.gres_conf: plan.gres_conf}
    files = _with_slurm_conf(conf, paths, wishes.include, files)
    return ControllerPlan(
        plan=plan,
        files=files,
        running=running,
        action=_action(paths, files, plan) if running else "none",
        held=told_of_held(plan.held),
        notes=notes,
    )


def _present(paths: Paths, replace: bool) -> Present:
    texts = {path: read_text(path) or "" for path in (paths.nodes_conf, paths.gres_conf)}
    foreign = [path for path, text in texts.items() if not is_ours(text)]
    if foreign and not replace:
        raise ConfError(
            f"{' and '.join(map(str, foreign))}: not written by this collection. Take over into slurm.conf what is "
            "still to count, then move it away, or let it be replaced (slurm_controller_nodes_replace: true)"
        )
    nodes_conf = "" if paths.nodes_conf in foreign else texts[paths.nodes_conf]
    return Present(nodes_conf, texts[paths.gres_conf], read_files(nodes_conf, texts[paths.gres_conf]))


def _as_loaded(present: Present, nodes: Mapping[str, Node]) -> Present:
    """The same with each ``Gres`` that the running controller has: a killed run may have written others, of which the
    controller does not know yet. Jobs may run on those nodes since, which it would kill."""
    loaded = {name: nodes[name].gres for name in present.nodes if name in nodes}
    try:
        nodes_conf = set_gres(present.nodes_conf, loaded).text
    except NodeLineError as error:
        raise ConfError(f"nodes.conf: {error}") from error
    return Present(nodes_conf, present.gres_conf, read_files(nodes_conf, present.gres_conf))


def _entries(nodes: Sequence[NodeFacts]) -> list[GresEntry]:
    return [entry for gres in sorted({one.gres for one in nodes}) for entry in parse_gres(gres)]


def _linted(plan: FleetPlan) -> list[str]:
    findings = lint(plan.nodes_conf, plan.gres_conf)
    told = [f"{one.nodes or 'gres.conf'}: {one.message}" for one in findings if one.severity == "error"]
    if told:
        raise ConfError("Slurm would refuse these files or misread them. " + "; ".join(told))
    return [f"{one.nodes or 'gres.conf'}: {one.message}" for one in findings]


def _action(paths: Paths, files: dict[Path, str], plan: FleetPlan) -> Literal["none", "reconfigure", "restart"]:
    if not differing(dict(files)) and not pending(paths.slurm_conf).exists():
        return "none"
    # The nodes are served gres.conf, and read it anew with the controller.
    return "reconfigure" if plan.change.action == "none" else plan.change.action


def _with_slurm_conf(conf: ControllerConf, paths: Paths, include: bool, files: dict[Path, str]) -> dict[Path, str]:
    if conf.includes_nodes:
        return files
    name = paths.nodes_conf.name if paths.nodes_conf.parent == conf.path.parent else str(paths.nodes_conf)
    if not include:
        raise ConfError(
            f"expected a line 'Include {name}' in {conf.path} on the controller, before its partitions, found none: "
            "without it Slurm would not know the nodes. Add it there, or let it be added "
            "(slurm_controller_nodes_include: true)"
        )
    return {conf.path: with_include(conf.texts[conf.path], name), **files}
