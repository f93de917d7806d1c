#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes ``mig_profiles.md`` from the MIG catalogue, so that the page never says anything else than the planner thinks.

Run it from the repository's root: ``PYTHONPATH=.venv/collections .venv/bin/python docs/mig_profiles.py``
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import (
    Board,
    ModeSemantics,
    Profile,
    board_for,
    boards,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_names import profile_name
from ansible_collections.hpc.compute.plugins.module_utils.mig.resolve import demand_on

PAGE = Path(__file__).with_suffix(".md")
INTENTS = ("1g", "2g", "3g", "4g", "7g", "half", "whole")

HEAD = """\
# MIG profiles

Generated from the catalogue by `docs/mig_profiles.py`. Do not edit.

What each board can be cut into. The profile *id* is the same with every driver, the name is not: on the machine the
driver's names count, and where they differ from this page the plan says so. *Start* and *slots* are memory slots of the
board; two instances never share one. *Intents* are the names that a layout may use on every board, see
[MIG configuration](mig_configuration.md).
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_overview(), *(line for board in boards() for line in _board(board))])


def _overview() -> Iterator[str]:
    columns = (
        "Board",
        "Name in plans",
        "PCI device ids",
        "Compute slices",
        "Memory slots",
        "First driver",
        "Switching MIG",
    )
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|---|---|---|---|---|"
    for board in boards():
        ids = ", ".join(f"`{device_id}`" for device_id in board.pci_device_ids)
        name = board.key.replace("_", "-")
        cells = (
            f"[{board.model}](#{_anchor(board.model)})",
            f"`{name}`",
            ids,
            str(board.compute_slices),
            str(board.memory_slots),
            board.min_driver or "not documented",
            _mode(board),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _board(board: Board) -> Iterator[str]:
    yield f"## {board.model}"
    yield ""
    for device_id in board.pci_device_ids:
        one = board_for(device_id)
        if one is not None and one != board:
            driver = one.min_driver or "not documented"
            yield f"`{device_id}` is {one.model}: first driver {driver}, switching MIG: {_mode(one)}."
            yield ""
    if not board.placements_observed:
        yield "Slots inferred from sister boards, not yet seen on this one. The driver's own list counts."
        yield ""
    if board.engine_budget is not None:
        have = board.engine_budget
        yield (
            f"All instances together have {have.nvdec} decoders, {have.nvenc} encoders, {have.jpeg} JPEG and "
            f"{have.ofa} optical flow engines; that limits a mix as well. Engines are listed in this order."
        )
        yield ""
    engines = board.engine_budget is not None
    yield "| Profile | Id | Compute slices | Slots | Starts | Most | Memory | SMs |" + (" Engines |" if engines else "")
    yield "|---|---|---|---|---|---|---|---|" + ("---|" if engines else "")
    for profile in board.profiles:
        yield _profile(profile)
    yield ""
    yield f"Intents: {', '.join(_intents(board))}."
    yield ""


def _profile(profile: Profile) -> str:
    memory = "" if profile.memory_mib is None else f"{profile.memory_mib / 1024:.2f} GiB"
    starts = ", ".join(str(start) for start in profile.starts)
    cells = [
        f"`{profile.name}`",
        str(profile.id),
        str(profile.compute_slices),
        str(profile.memory_slots),
        starts,
        str(profile.max_count),
        memory,
        "" if profile.sm_count is None else str(profile.sm_count),
    ]
    if profile.engines is not None:
        one = profile.engines
        cells.append(f"{one.nvdec} / {one.nvenc} / {one.jpeg} / {one.ofa}")
    return f"| {' | '.join(cells)} |"


def _intents(board: Board) -> Iterator[str]:
    for intent in INTENTS:
        name = profile_name(intent)
        if isinstance(name, str):
            raise SystemExit(f"expected {intent} to be an intent: {name}")
        demand = demand_on(board, True, ((name, 1),))
        wants = getattr(demand, "wants", ())
        for want in wants:
            profile = board.profile(want.profile_id)
            if profile is not None:
                yield f"`{intent}` is `{profile.name}`"


def _mode(board: Board) -> str:
    return "needs a reset of the GPU" if board.mode_semantics is ModeSemantics.AMPERE else "at once, lost at reboot"


def _anchor(title: str) -> str:
    """How a heading is linked to: lower case, spaces as hyphens, other signs gone."""
    return "".join(sign for sign in title.lower().replace(" ", "-") if sign.isalnum() or sign in "-_")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
