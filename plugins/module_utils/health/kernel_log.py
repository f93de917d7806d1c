# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Xids in the kernel log of this boot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..gpu.pci import canonical_address
from .model import Finding, fault, note
from .xids import Action, action

#: Lines of the journal of this boot's kernel, with seconds since 1970 in front.
COMMAND = ("journalctl", "--dmesg", "--boot", "--no-pager", "--quiet", "--output=short-unix", "--grep=NVRM: Xid")
#: What journalctl returns when nothing matches.
NOTHING_FOUND = 1

_LINE = re.compile(
    r"^(?:(?P<time>\d+(?:\.\d+)?) )?.*NVRM: Xid \((?:PCI:)?(?P<address>[0-9a-fA-F:.]+)\): (?P<xid>\d+)(?P<text>.*)$"
)


@dataclass(frozen=True)
class Xid:
    """*time* is 0 where the line has none."""

    address: str
    number: int
    text: str
    time: float = 0.0


def parse(lines: Iterable[str]) -> list[Xid]:
    """The Xids in lines of a kernel log; other lines are left out."""
    found = []
    for line in lines:
        match = _LINE.match(line.rstrip("\n"))
        if match is None:
            continue
        text = match["text"].lstrip(", ").strip()
        found.append(Xid(_address(match["address"]), int(match["xid"]), text, float(match["time"] or 0)))
    return found


def judge(xids: Iterable[Xid], overrides: Mapping[int, Action], since: float = 0.0) -> list[Finding]:
    """A finding for each kind of Xid on each GPU. Those before *since* are dealt with.

    A line without a time is never older than *since*: better told twice than not at all.
    """
    kinds: dict[tuple[str, int, Action], list[Xid]] = {}
    for one in xids:
        what = action(one.number, one.text, dict(overrides))
        if what != "ignore" and not 0 < one.time < since:
            kinds.setdefault((one.address, one.number, what), []).append(one)
    findings = []
    for (address, number, what), found in kinds.items():
        last = found[-1]
        times = f" ({len(found)} times)" if len(found) > 1 else ""
        make = fault if what == "drain" else note
        findings.append(make(address, f"Xid {number}{times}{f', {last.text}' if last.text else ''}"))
    return findings


def _address(text: str) -> str:
    # The driver leaves the function out.
    full = text if "." in text else f"{text}.0"
    try:
        return canonical_address(full)
    except ValueError:
        return text
