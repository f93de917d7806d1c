# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""gres.conf as Slurm reads it: which lines are for which node."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from .hostlist import expand

_WORD = re.compile(r"([A-Za-z_]+)\s*=\s*(\"[^\"]*\"|\S+)")


@dataclass(frozen=True)
class GresLine:
    """A line. *nodes* is ``None`` where it is for all; *words* has lower-case keys."""

    number: int
    nodes: frozenset[str] | None
    words: tuple[tuple[str, str], ...]

    def get(self, key: str) -> str | None:
        return dict(self.words).get(key)

    @property
    def name(self) -> str:
        return self.get("name") or ""

    @property
    def files(self) -> tuple[str, ...]:
        """The device files, those of a list such as ``/dev/nvidia[0-3]`` each."""
        text = self.get("file") or self.get("multiplefiles")
        return tuple(expand(text)) if text else ()

    @property
    def count(self) -> int:
        """Devices that the line stands for."""
        if self.get("file"):
            return len(self.files)
        if self.get("multiplefiles"):
            # "/dev/nvidia[0-1],/dev/nvidia-caps/..." can't be told from one device; Slurm takes it for one
            return 1
        given = self.get("count") or "1"
        return int(given) if given.isdecimal() else 1

    @property
    def slice(self) -> bool:
        return any(PurePosixPath(file).name.startswith("nvidia-cap") for file in self.files)


@dataclass(frozen=True)
class GresText:
    """*lines* with a ``Name=``; *includes* are files that were not read. *comments* is all that Slurm passes over."""

    lines: tuple[GresLine, ...]
    detection: tuple[GresLine, ...]
    includes: tuple[str, ...]
    comments: str

    def of(self, node: str) -> tuple[GresLine, ...]:
        return tuple(line for line in self.lines if line.nodes is None or node in line.nodes)

    def autodetect(self, node: str) -> str | None:
        """``AutoDetect=`` for a node, its own before that for all; ``None`` where there is none."""
        own = [line for line in self.detection if line.nodes is not None and node in line.nodes]
        found = [line.get("autodetect") for line in own or self.detection if line.nodes is None or line in own]
        return found[-1].lower() if found and found[-1] else None


def parse_gres_conf(text: str) -> GresText:
    """Read it.

    :raises ValueError: a list of hosts or files in it can't be read; the message has the line's number.
    """
    lines: list[GresLine] = []
    detection: list[GresLine] = []
    includes: list[str] = []
    comments: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        plain, _, comment = raw.partition("#")
        comments.append(comment)
        include = re.fullmatch(r"(?i)\s*include\s+(\S+)\s*", plain)
        if include is not None:
            includes.append(include[1])
            continue
        words = {key.lower(): value.strip('"') for key, value in _WORD.findall(plain)}
        try:
            nodes = frozenset(expand(words.pop("nodename"))) if "nodename" in words else None
            line = GresLine(number, nodes, tuple(words.items()))
            line.files  # noqa: B018  # a list that can't be read is told with the line's number
        except ValueError as error:
            raise ValueError(f"gres.conf, line {number}: {error}") from error
        if "autodetect" in words:
            detection.append(line)
        if "name" in words:
            lines.append(line)
    return GresText(tuple(lines), tuple(detection), tuple(includes), "\n".join(comments))
