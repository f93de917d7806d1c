# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the MIG configuration guide shows is what comes out."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.hpc.compute.plugins.module_utils.mig.fleet import Planner, Wishes, boards_named
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import Layout, parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_file import load_layout

GUIDE = (Path(__file__).parents[3] / "docs/mig_configuration.md").read_text(encoding="utf-8")
CODES = {
    *("not_mig_capable", "board_unknown", "state_unknown", "profile_unknown", "driver_too_old", "compute_slices"),
    *("memory_slots", "media_extensions", "engines", "profile_count", "placement", "busy", "device_missing"),
}


def example() -> Layout:
    return load_layout(
        next(block for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "version:" in block)
    )


def test_the_example_layout_is_one_and_fits() -> None:
    layout = example()
    assert set(layout.configs) == {"teaching", "research", "by-board"}
    assert Planner(layout.config("teaching"), Wishes()).inventory(boards_named("8xh100-80"))["feasible"]
    assert Planner(layout.config("by-board"), Wishes()).inventory(boards_named("h100-80,a30"))["feasible"]
    research = Planner(layout.config("research"), Wishes(allow_missing=True)).inventory(boards_named("4xh100-80"))
    assert research["feasible"]
    third = parse_entries(
        [{"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb+me": 1, "1g.10gb": 2, "3g": 1}}]
    )
    assert Planner(third, Wishes()).inventory(boards_named("h100-80"))["feasible"]


def test_the_drawing_and_the_message_are_real() -> None:
    def plan(small: int) -> dict[str, object]:
        entry = {"devices": "all", "mig-enabled": True, "mig-devices": {"3g.40gb": 1, "1g.10gb": small}}
        return Planner(parse_entries([entry]), Wishes()).inventory(boards_named("h100-80"))

    assert str(plan(4)["drawing"]) in GUIDE
    problems = plan(5)["problems"]
    assert isinstance(problems, list)
    assert problems[0]["message"] in " ".join(GUIDE.split())


def test_every_problem_code_is_explained() -> None:
    table = GUIDE[GUIDE.index("| Code |") :]
    assert set(re.findall(r"`([a-z_]+)`", "".join(line.split("|")[1] for line in table.splitlines()))) == CODES
