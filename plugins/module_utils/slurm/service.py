# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a node out of service and give it back, without ever meddling with what somebody else decided about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .scontrol import Scontrol
from .states import Job, Node, own_reason, same_gres

_PAUSE_S = 1.0
_MOST_JOBS_TOLD = 10


class WaitError(Exception):
    """What was waited for did not come in time. *jobs* are those that still hold the node."""

    def __init__(self, text: str, jobs: tuple[Job, ...] = ()) -> None:
        super().__init__(text)
        self.jobs = jobs


@dataclass(frozen=True)
class Change:
    """A node *before* and *after*. *note*: why something was left as it is, empty otherwise."""

    before: Node
    after: Node
    note: str = ""

    @property
    def changed(self) -> bool:
        return self.before != self.after


def drain(slurm: Scontrol, name: str, reason: str, check: bool = False) -> Change:
    """Drain a node with *reason*, which gets our mark. One that is drained by somebody else stays theirs.

    :param check: tell what would be, change nothing.
    :raises ScontrolError: Slurm does not do it.
    """
    before = slurm.node(name)
    wanted = own_reason(reason)
    if before.drained and not before.ours:
        return Change(before, before, f"{before}: drained by somebody else, so its reason stays")
    if before.ours and before.reason == wanted:
        return Change(before, before)
    if check:
        return Change(before, replace(before, states=before.states | {"DRAIN"}, reason=wanted))
    slurm.drain(name, wanted)
    return Change(before, slurm.node(name))


def resume(slurm: Scontrol, name: str, check: bool = False) -> Change:
    """Give a node back that we drained. Any other is left alone.

    :raises ScontrolError: Slurm does not do it.
    """
    before = slurm.node(name)
    if not before.drained:
        return Change(before, before)
    if not before.ours:
        return Change(before, before, f"{before}: drained by somebody else, so it is not resumed")
    if check:
        # Slurm keeps the reason's text
        return Change(before, replace(before, states=before.states - {"DRAIN"}))
    slurm.resume(name)
    return Change(before, slurm.node(name))


def wait_for_jobs(slurm: Scontrol, name: str, seconds: float) -> None:
    """Wait until no job holds a part of the node.

    :raises WaitError: some still do after *seconds*; the text and *jobs* name them.
    :raises ScontrolError: Slurm does not answer.
    """
    jobs: list[Job] = []

    def free() -> bool:
        jobs[:] = slurm.jobs(name)
        return not jobs

    if not _wait(slurm, free, seconds):
        told = ", ".join(map(str, jobs[:_MOST_JOBS_TOLD]))
        more = len(jobs) - _MOST_JOBS_TOLD
        raise WaitError(
            f"waited {seconds:g} s for node {name} to become free, but {len(jobs)} jobs still hold it: "
            f"{told}{f' and {more} more' if more > 0 else ''}. Wait longer, or come back when they have ended",
            tuple(jobs),
        )


def wait_until_registered(slurm: Scontrol, name: str, seconds: float, gres: str | None = None) -> Node:
    """Wait until the controller has heard from the node's ``slurmd``, and has its *gres* where given.

    :raises WaitError: it has not after *seconds*; the text says how the node stands.
    :raises ScontrolError, GresSyntaxError: see there.
    """
    node = slurm.node(name)

    def registered() -> bool:
        nonlocal node
        node = slurm.node(name)
        return node.registered and (gres is None or same_gres(node.gres, gres))

    if not _wait(slurm, registered, seconds):
        expected = "" if gres is None else f" with Gres={gres or '(none)'}"
        raise WaitError(
            f"waited {seconds:g} s for node {name} to register{expected}; {node}, Gres={node.gres or '(none)'}. "
            "See slurmd's log on the node, and 'systemctl status gpu-layout.service slurmd.service'"
        )
    return node


def _wait(slurm: Scontrol, done: Callable[[], bool], seconds: float) -> bool:
    end = slurm.clock() + seconds
    while not done():
        if slurm.clock() >= end:
            return False
        slurm.sleep(_PAUSE_S)  # Slurm can be asked only
    return True
