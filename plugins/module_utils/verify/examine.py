# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examination of a node or an image: everything is looked at, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..command.settings import LAYOUT
from ..health.model import CheckResult
from ..health.run import Node, look
from ..health.settings import SettingsError, read_settings
from ..image import identity
from ..slurm.control import Runner
from . import system
from .model import Row, State

_STATES: dict[str, State] = {"off": "absent", "ok": "ok", "note": "ok", "unknown": "unknown", "fault": "wrong"}
#: Belong to everybody, and some clean images of them to save room.
_STAYS = {"licences": "usr/share/doc/*/copyright", "time zones": "usr/share/zoneinfo/*/*"}
_MOST_PATHS = 3


def examine(node: Node, run: Runner, image: bool) -> list[Row]:
    """Look at a node in service or, with *image*, at a system to be copied, which may be mounted somewhere."""
    live = not image and node.root == Path("/")
    rows = [
        *system.versions(node.root, run),
        *system.kernels(node.root, run),
        *system.units(node.root, run, live),
    ]
    return [*rows, *((*_boot(node.root), *_hygiene(node.root)) if image else _health(node))]


def _boot(root: Path) -> Iterator[Row]:
    """What only a machine with GPUs has; of an image there is no more to say than what its machines will do."""
    stored = (root / LAYOUT).exists()
    yield Row("layout", "stored", "ok" if stored else "absent", f"/{LAYOUT}, cut at each boot" if stored else "")
    yield Row("gres", "gres.conf", "absent", "follows from the GPUs of a machine, at its boot")


def _hygiene(root: Path) -> Iterator[Row]:
    found = identity.leftovers(root)
    for rule in identity.RULES:
        paths = [one.path for one in found if one.rule is rule]
        more = f" and {len(paths) - _MOST_PATHS} more" if len(paths) > _MOST_PATHS else ""
        yield Row("hygiene", rule.subject, "wrong" if paths else "ok", ", ".join(paths[:_MOST_PATHS]) + more)
    for name, pattern in _STAYS.items():
        there = next(root.glob(pattern), None) is not None
        yield Row("hygiene", name, "ok" if there else "wrong", "" if there else f"expected {pattern}, found none")


def _health(node: Node) -> Iterator[Row]:
    try:
        settings = read_settings(node.root)
    except SettingsError as error:
        yield Row("health", "settings", "wrong", str(error))
        return
    for check in look(node, settings).checks:
        yield Row("health", check.name, _STATES[check.status], _said(check))


def _said(check: CheckResult) -> str:
    return "; ".join(f"{one.subject}: {one.message}" if one.subject else one.message for one in check.findings)
