# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node and the jobs on it as ``slurmctld`` has them: what ``scontrol --json`` and ``squeue --json`` print, as values.

Whose drain a node is in is told by its reason: what this collection drains begins with :data:`MARKER`. Slurm keeps the
text after a resume, so a reason counts only together with the flag DRAIN.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .gres import GresEntry, GresSyntaxError, parse_gres
from .sharing import KINDS

#: How the reasons of this collection's drains begin.
MARKER = "hpc.compute: "

#: ``sinfo -R`` and mails show reasons on one line; a longer one hides what matters.
MOST_OF_A_REASON = 250

#: In the words of ``squeue --states``: a job in one of these holds a part of its node, or soon does.
HOLDING = ("running", "suspended", "configuring", "completing", "signaling", "stage_out", "stopped", "resizing")

# DOWN comes with and without NOT_RESPONDING; UNKNOWN is a node that a controller which just started has not heard of.
_ABSENT = frozenset({"DOWN", "NOT_RESPONDING", "UNKNOWN"})


class StateError(Exception):
    """Slurm printed something else than expected; the text says what."""


@dataclass(frozen=True)
class Node:
    """A node. *states* are Slurm's words, such as IDLE and DRAIN. *gres* is its ``Gres=``, sorted, without sockets."""

    name: str
    states: frozenset[str]
    reason: str
    gres: str

    @property
    def drained(self) -> bool:
        """Whether it takes no new jobs because somebody said so."""
        return "DRAIN" in self.states

    @property
    def ours(self) -> bool:
        """Whether this collection drained it and nobody took that over since."""
        return self.drained and self.reason.startswith(MARKER)

    @property
    def invalid(self) -> bool:
        """Whether Slurm refuses it because it has less than its line in slurm.conf says."""
        return "INVALID_REG" in self.states

    @property
    def registered(self) -> bool:
        """Whether its slurmd has told the controller what it has, and is heard of."""
        return not self.invalid and not self.states & _ABSENT

    def __str__(self) -> str:
        text = f"node {self.name} is {'+'.join(sorted(self.states))}"
        return f"{text} ({self.reason})" if self.reason and (self.drained or not self.registered) else text


@dataclass(frozen=True)
class Job:
    """A job that holds a part of a node. *number* is as ``squeue`` prints it (``12_3`` for a task of an array)."""

    number: str
    name: str
    user: str
    state: str

    def __str__(self) -> str:
        return f"{self.number} ({self.name}, {self.user}, {self.state})"


def own_reason(text: str) -> str:
    """*text* on one line, cut to a length that people read, and marked as ours."""
    line = " ".join(text.split())
    room = MOST_OF_A_REASON - len(MARKER)
    return MARKER + (line if len(line) <= room else f"{line[: room - 3]}...")


def parse_node(text: str, name: str) -> Node:
    """The node *name* in the output of ``scontrol show node NAME --json``.

    :raises StateError: it is not there, or the text is none of Slurm 24.11's.
    """
    found = [entry for entry in _entries(text, "nodes") if entry.get("name") == name]
    if not found:
        raise StateError(f"expected a node {name} in Slurm's configuration, found none by that name")
    return _node(found[0])


def parse_nodes(text: str) -> dict[str, Node]:
    """The nodes in the output of ``scontrol show nodes --json``, by name.

    :raises StateError: the text is none of Slurm 24.11's.
    """
    nodes = [_node(entry) for entry in _entries(text, "nodes")]
    return {node.name: node for node in nodes}


def _node(entry: Mapping[str, Any]) -> Node:
    try:
        states = frozenset(map(str, entry["state"]))
        return Node(str(entry["name"]), states, str(entry["reason"]), _plain(str(entry["gres"])))
    except (KeyError, TypeError) as error:
        name = entry.get("name", "without a name")
        raise StateError(f"expected state, reason and gres of node {name} in Slurm's JSON, found {entry}") from error


def parse_jobs(text: str) -> list[Job]:
    """The jobs in the output of ``squeue --json``, by number.

    :raises StateError: the text is none of Slurm 24.11's.
    """
    entries = sorted(_entries(text, "jobs"), key=lambda entry: int(entry.get("job_id", 0)))
    try:
        return [
            Job(_number(entry), str(entry["name"]), str(entry["user_name"]), "+".join(map(str, entry["job_state"])))
            for entry in entries
        ]
    except (KeyError, TypeError) as error:
        raise StateError(f"expected jobs with name, user and state in Slurm's JSON, missed {error}") from error


def same_gres(one: str, other: str) -> bool:
    """Whether two ``Gres=`` values offer the same, in whatever order and case.

    :raises GresSyntaxError: one is no such value.
    """
    return _counts(one) == _counts(other)


def common_gres(one: str, other: str) -> str:
    """What both ``Gres=`` values offer: of each type the smaller count. May be empty.

    :raises GresSyntaxError: one is no such value.
    """
    limits = _counts(other)
    kept = [
        GresEntry(entry.name, entry.type, min(entry.count, limits.get(_key(entry), 0)), entry.no_consume)
        for entry in _untyped(parse_gres(one))
    ]
    return ",".join(str(entry) for entry in kept if entry.count > 0)


def _counts(gres: str) -> dict[tuple[str, str], int]:
    return {_key(entry): entry.count for entry in _untyped(parse_gres(gres)) if entry.count > 0}


def _key(entry: GresEntry) -> tuple[str, str]:
    # Slurm compares types without regard to case.
    return entry.name, (entry.type or "").lower()


def _untyped(entries: Sequence[GresEntry]) -> list[GresEntry]:
    """The controller gives shares the types of GPUs: ``shard:a:8,shard:b:0`` for what slurm.conf has as ``shard:8``."""
    shared: Counter[str] = Counter()
    for entry in entries:
        if entry.name in KINDS:
            shared[entry.name] += entry.count
    plain = [GresEntry(name, None, count) for name, count in shared.items() if count]
    return [*(entry for entry in entries if entry.name not in KINDS), *plain]


def _plain(gres: str) -> str:
    try:
        return ",".join(sorted(map(str, _untyped(parse_gres(gres if gres != "(null)" else "")))))
    except GresSyntaxError as error:
        raise StateError(f"expected the Gres= of a node from Slurm, found {gres!r}: {error}") from error


def _number(entry: Mapping[str, Any]) -> str:
    task = entry["array_task_id"]
    return f"{entry['array_job_id']['number']}_{task['number']}" if task["set"] else str(entry["job_id"])


def _entries(text: str, key: str) -> list[Mapping[str, Any]]:
    try:
        entries = json.loads(text)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"expected Slurm's JSON with {key!r} in it, found {text.strip()[:200]!r}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise StateError(f"expected a list of {key} in Slurm's JSON, found {entries!r:.200}")
    return entries
