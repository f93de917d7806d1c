# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a node out of service for what was found on it, and give it back, without touching anybody else's decision."""

from __future__ import annotations

from collections.abc import Sequence

from ..slurm.scontrol import Scontrol
from ..slurm.states import Node
from .model import MARKER, Report, names_of, with_names

# What these found is not looked for by the checks.
_OF_JOBS = frozenset({"prolog", "epilog"})

# Why a node is down when Slurm itself says so, which is nobody's decision.
_OF_SLURM = ("Not responding", "Node unexpectedly rebooted", "none")


def ours(node: Node) -> bool:
    """Whether this program drained it, and nobody took that over since."""
    return node.drained and node.reason.startswith(MARKER)


def drain(slurm: Scontrol, name: str, reason: str) -> tuple[str, bool]:
    """Drain a node: a sentence about it, and whether anything was done.

    :raises ScontrolError: Slurm does not answer, or does not do it.
    """
    before = slurm.node(name)
    if before.drained and not ours(before):
        return f"{before}: drained by somebody else, so its reason stays", False
    if not before.drained and _taken_down(before):
        return f"{before}: taken down by somebody else, so its reason stays", False
    if ours(before):
        # A check that finds something else knows nothing of this, and it must outlive what the check found.
        reason = with_names(sorted(names_of(before.reason) & _OF_JOBS - names_of(reason)), reason)
    if ours(before) and names_of(before.reason) == names_of(reason):
        return f"{before}: drained for this already", False
    slurm.drain(name, reason)
    return f"node {name} drained: {reason}", True


def resume(slurm: Scontrol, report: Report, checks: Sequence[str]) -> tuple[str, bool]:
    """Give a node back that was drained for nothing but *checks* (``all``: for any), when all is well again.

    A sentence about it, empty where there is nothing to say, and whether anything was done.

    :raises ScontrolError: Slurm does not answer, or does not do it.
    """
    if not checks or not report.healthy or not report.complete:
        return "", False
    node = slurm.node(report.node)
    if not ours(node):
        return "", False
    others = names_of(node.reason) - set(checks)
    kept = others & _OF_JOBS if "all" in checks else others
    if kept:
        return f"{node}: all is well again, but {', '.join(sorted(kept))} is not to be resumed by itself", False
    slurm.resume(report.node)
    return f"node {report.node} resumed: all is well again ({node.reason})", True


def _taken_down(node: Node) -> bool:
    return "DOWN" in node.states and bool(node.reason) and not node.reason.startswith((MARKER, *_OF_SLURM))
