# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What slurm.conf on this machine says about its own node: the ``Gres=`` that slurmd will have to find devices for."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

from ..slurm.hostlist import expand

SLURM_CONF = Path("etc/slurm/slurm.conf")
SLURMD_OPTIONS = Path("etc/default/slurmd")

_MOST_INCLUDES = 20
_WORD = re.compile(r"([A-Za-z_]+)\s*=\s*(\"[^\"]*\"|\S+)")


class SlurmConfError(Exception):
    """slurm.conf can't be read; the text says why."""


def node_gres(root: Path, host: str | None = None) -> str | None:
    """``Gres=`` of this node (empty where its line has none); ``None`` where there is no slurm.conf or no such node.

    :param host: the machine's name, by default its own.
    :raises SlurmConfError: slurm.conf, or a file it includes, can't be read.
    """
    path = root / SLURM_CONF
    if not path.exists():
        return None
    host = (host or socket.gethostname()).partition(".")[0]
    name = name_option(root)
    default: dict[str, str] = {}
    found: str | None = None
    for words in _node_lines(path, root):
        if words["nodename"].upper() == "DEFAULT":
            default |= words
            continue
        try:
            ours = _is_ours(words, name, host)
        except ValueError as error:
            raise SlurmConfError(f"{path}: {error}") from error
        if ours:
            found = {**default, **words}.get("gres", "")
    return found


def _is_ours(words: dict[str, str], name: str | None, host: str) -> bool:
    if name is not None:
        return name in expand(words["nodename"])
    return host in expand(words.get("nodehostname", words["nodename"]))


def name_option(root: Path) -> str | None:
    """The name that ``-N`` gives slurmd, as Debian's unit passes it."""
    try:
        text = (root / SLURMD_OPTIONS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # the unit reads it if it is there
    for line in text.splitlines():
        key, _, value = line.strip().partition("=")
        if key != "SLURMD_OPTIONS":
            continue
        try:
            options = shlex.split(" ".join(shlex.split(value)))
        except ValueError as error:
            raise SlurmConfError(f"expected options in {root / SLURMD_OPTIONS}, found {value!r}: {error}") from error
        for position, option in enumerate(options):
            if option == "-N" and position + 1 < len(options):
                return options[position + 1]
            if option.startswith("-N") and len(option) > len("-N"):
                return option.removeprefix("-N")
    return None


def _node_lines(path: Path, root: Path) -> Iterator[dict[str, str]]:
    for line in _lines(path, root, 0):
        words = {key.lower(): value.strip('"') for key, value in _WORD.findall(line)}
        if "nodename" in words:
            yield words


def _lines(path: Path, root: Path, depth: int) -> Iterator[str]:
    if depth > _MOST_INCLUDES:
        raise SlurmConfError(f"{path}: files include each other without end")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SlurmConfError(f"{path} could not be read: {error.strerror or error}") from error
    for raw in re.sub(r"\\\s*\n", " ", text).splitlines():
        line = re.sub(r"(?<!\\)#.*", "", raw).strip()
        include = re.fullmatch(r"(?i)include\s+(\S+)", line)
        if include is None:
            yield line
            continue
        target = Path(include[1])
        inner = root / target.relative_to("/") if target.is_absolute() else path.parent / target
        yield from _lines(inner, root, depth + 1)
