# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change what single nodes offer in the text of a slurm.conf, and leave every other character of it alone.

A line that several nodes share is divided when only some of them change: those get a line of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .hostlist import expand, fold
from .states import same_gres

_WORD = re.compile(r"([A-Za-z_]+)\s*=\s*(\"[^\"]*\"|\S+)")
#: Keys whose value is a list with one entry for each node of the line.
_PER_NODE = ("nodename", "nodehostname", "nodeaddr", "bcastaddr")


class NodeLineError(Exception):
    """A node's line can't be changed; the text says which and why."""


@dataclass(frozen=True)
class Edited:
    """*text* is the new one. *before* and *after*: ``Gres=`` of the nodes that were found in it, by name."""

    text: str
    before: Mapping[str, str]
    after: Mapping[str, str]


def set_gres(text: str, wanted: Mapping[str, str]) -> Edited:
    """Give each node in *wanted* its ``Gres=``; an empty one takes the key out.

    :raises NodeLineError: a list of hosts can't be read, or ``NodeName=DEFAULT`` sets ``Gres``, which no line can undo.
    :raises GresSyntaxError: a ``Gres=``, there or wanted, is none.
    """
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    parts: list[str] = []
    for chunk in _logical_lines(text):
        line, end = _without_end(chunk)
        words = _words(line)
        name = words.get("nodename", "")
        if name.upper() == "DEFAULT" and "gres" in words:
            raise NodeLineError("NodeName=DEFAULT sets Gres: write it on the nodes' own lines, so that each can differ")
        nodes = _hosts(name) if name else []
        concerned = [node for node in nodes if node in wanted]
        if not concerned:
            parts.append(chunk)
            continue
        old = words.get("gres", "")
        before |= dict.fromkeys(concerned, old)
        # Another order of the same is no change: Slurm prints its own.
        after |= {node: old if same_gres(old, wanted[node]) else wanted[node] for node in concerned}
        parts.append("\n".join(_divided(line, words, nodes, {node: after.get(node, old) for node in nodes})) + end)
    return Edited("".join(parts), before, after)


def _divided(line: str, words: Mapping[str, str], nodes: Sequence[str], gres: Mapping[str, str]) -> Iterator[str]:
    """The lines in place of *line*, one for each different ``Gres=``, in the order of their first nodes."""
    groups: dict[str, list[int]] = {}
    for position, node in enumerate(nodes):
        groups.setdefault(gres[node], []).append(position)
    for value, positions in groups.items():
        part = line if value == words.get("gres", "") else _with_gres(line, value)
        if len(groups) > 1:
            for key in _PER_NODE:
                if key in words:
                    part = _with_hosts(part, key, len(nodes), positions)
        yield part


def _with_gres(line: str, gres: str) -> str:
    found = _key(line, "gres")
    if found and gres:
        return f"{line[: found.start(2)]}{gres}{line[found.end(2) :]}"
    if found:
        return line[: found.start()].rstrip() + line[found.end() :]
    if not gres:
        return line
    # After the hardware, where a line that was written anew has it.
    found = _key(line, "realmemory") or list(_WORD.finditer(_uncommented(line)))[-1]
    return f"{line[: found.end()]} Gres={gres}{line[found.end() :]}"


def _with_hosts(line: str, key: str, count: int, positions: Sequence[int]) -> str:
    found = _key(line, key)
    if found is None:
        raise NodeLineError(f"expected {key} in {line!r}")
    hosts = _hosts(found[2].strip('"'))
    if len(hosts) != count:
        raise NodeLineError(
            f"expected {count} entries for {count} nodes in {found[0]!r}, found {len(hosts)}: the line can't be divided"
        )
    return f"{line[: found.start(2)]}{fold([hosts[position] for position in positions])}{line[found.end(2) :]}"


def _key(line: str, key: str) -> re.Match[str] | None:
    return next((found for found in _WORD.finditer(_uncommented(line)) if found[1].lower() == key), None)


def _words(line: str) -> dict[str, str]:
    return {found[1].lower(): found[2].strip('"') for found in _WORD.finditer(_uncommented(line))}


def _uncommented(line: str) -> str:
    """*line* with blanks in place of a comment and of continuations, so that positions stay."""
    plain = re.sub(r"(?<!\\)#.*", lambda found: " " * len(found[0]), line)
    return plain.replace("\\\n", "  ")


def _logical_lines(text: str) -> Iterator[str]:
    held = ""
    for line in text.splitlines(keepends=True):
        held += line
        if not line.rstrip("\n").endswith("\\"):
            yield held
            held = ""
    if held:
        yield held


def _without_end(chunk: str) -> tuple[str, str]:
    return (chunk[:-1], "\n") if chunk.endswith("\n") else (chunk, "")


def _hosts(text: str) -> list[str]:
    try:
        return expand(text)
    except ValueError as error:
        raise NodeLineError(str(error)) from error
