# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found on a node, as values; ``node-health check --json`` prints them, and monitoring reads that.

A *fault* is a reason to let no new job start on the node. A *note* is worth a look. *unknown* says that something could
not be checked, be it by a mistake of this program: it never takes a node out of service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: Layout of :meth:`Report.to_dict`; raised when a key changes its meaning or goes. New keys may come.
REPORT_SCHEMA = 1

Level = Literal["fault", "note", "unknown"]
Mode = Literal["drain", "warn", "off"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. *subject*: what it is about, such as a PCI address or a path."""

    level: Level
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message


def fault(subject: str, message: str) -> Finding:
    return Finding("fault", subject, message)


def note(subject: str, message: str) -> Finding:
    return Finding("note", subject, message)


def unknown(subject: str, message: str) -> Finding:
    return Finding("unknown", subject, message)


#: Findings by the name of their check.
Found = dict[str, list[Finding]]


def to_json(found: Found) -> dict[str, Any]:
    """A form that JSON can hold; :func:`from_json` reads it back."""
    return {check: [[one.level, one.subject, one.message] for one in some] for check, some in found.items()}


def from_json(data: dict[str, Any]) -> Found:
    """What :func:`to_json` made."""
    return {check: [Finding(*one) for one in some] for check, some in data.items()}


@dataclass(frozen=True)
class CheckResult:
    """One check. With mode *warn* a fault of it is told and is no reason to drain."""

    name: str
    mode: Mode
    findings: tuple[Finding, ...] = ()

    @property
    def status(self) -> str:
        """``off``, ``ok``, ``note``, ``unknown`` or ``fault``: the worst of what was found."""
        if self.mode == "off":
            return "off"
        levels = {finding.level for finding in self.findings}
        return next((level for level in ("fault", "unknown", "note") if level in levels), "ok")

    @property
    def drains(self) -> tuple[Finding, ...]:
        """The findings for which the node is to be drained."""
        return tuple(one for one in self.findings if one.level == "fault") if self.mode == "drain" else ()


@dataclass(frozen=True)
class Report:
    """All checks of one run. *time* is when it began, in seconds since 1970."""

    node: str
    time: float
    seconds: float
    checks: tuple[CheckResult, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found for which the node is to be drained."""
        return not any(check.drains for check in self.checks)

    @property
    def complete(self) -> bool:
        """Whether all that was to be checked was."""
        return not any(finding.level == "unknown" for check in self.checks for finding in check.findings)

    @property
    def faulty(self) -> tuple[str, ...]:
        """The names of the checks for which the node is to be drained."""
        return tuple(check.name for check in self.checks if check.drains)

    @property
    def reason(self) -> str:
        """Why it is to be drained, in a line; empty when it is not to be."""
        found = [finding for check in self.checks for finding in check.drains]
        return drain_reason(self.faulty, [str(finding) for finding in found]) if found else ""

    def findings(self, level: Level) -> list[Finding]:
        """All findings of one level."""
        return [one for check in self.checks for one in check.findings if one.level == level]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": REPORT_SCHEMA,
            "node": self.node,
            "time": round(self.time, 3),
            "seconds": round(self.seconds, 3),
            "status": "unhealthy" if not self.healthy else "healthy" if self.complete else "unknown",
            "reason": self.reason,
            "faults": len(self.findings("fault")),
            "notes": len(self.findings("note")),
            "unknown": len(self.findings("unknown")),
            "checks": [
                {
                    "name": check.name,
                    "mode": check.mode,
                    "status": check.status,
                    "findings": [
                        {"level": one.level, "subject": one.subject, "message": one.message} for one in check.findings
                    ],
                }
                for check in self.checks
            ],
        }


#: How the reasons of these drains begin. Not as those of other parts of the collection, which take theirs back.
MARKER = "hpc-compute health: "

#: ``sinfo -R`` and mails show reasons on one line; a longer one hides what matters.
MOST_OF_A_REASON = 200


def drain_reason(names: Sequence[str], texts: Sequence[str]) -> str:
    """``MARKER ecc+xid: the first text (2 more)``, on one line, cut to a length that people read."""
    head = f"{MARKER}{'+'.join(names)}: "
    tail = f" ({len(texts) - 1} more)" if len(texts) > 1 else ""
    # Slurm's own separators and quotes would end the value early.
    line = " ".join(texts[0].replace('"', "'").split())
    room = MOST_OF_A_REASON - len(head) - len(tail)
    return head + (line if len(line) <= room else f"{line[: max(room - 3, 0)]}...") + tail


def with_names(names: Sequence[str], reason: str) -> str:
    """A *reason* that :func:`drain_reason` made, for *names* as well."""
    return f"{MARKER}{'+'.join([*names, reason.removeprefix(MARKER)])}"


def names_of(reason: str) -> frozenset[str]:
    """The names of the checks in a reason that :func:`drain_reason` made; none in any other."""
    if not reason.startswith(MARKER):
        return frozenset()
    return frozenset(reason.removeprefix(MARKER).partition(":")[0].split("+"))
