# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an examination finds: rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

#: ``absent``: not installed, not there, switched off; nobody asked for it. ``unknown``: it could not be found out.
State = Literal["ok", "absent", "unknown", "wrong"]

_HEADER = ("SUBJECT", "ITEM", "STATE", "WHAT THERE IS")


@dataclass(frozen=True)
class Row:
    """One thing that was looked at. *detail* is for people: what there is, or what is wrong."""

    subject: str
    item: str
    state: State
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def good(rows: Iterable[Row]) -> bool:
    """Whether nothing is wrong. What could not be found out is told, and is no verdict."""
    return not any(row.state == "wrong" for row in rows)


def table(rows: Sequence[Row]) -> list[str]:
    """Lines with aligned columns."""
    cells = [_HEADER, *((row.subject, row.item, row.state, row.detail) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]]).rstrip()
        for line in cells
    ]
