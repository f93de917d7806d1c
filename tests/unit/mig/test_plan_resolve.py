# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and intents become the profiles that the board has."""

from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, Profile, boards
from ansible_collections.hpc.compute.plugins.module_utils.mig.demand import MIG_OFF, Demand, Want
from ansible_collections.hpc.compute.plugins.module_utils.mig.explain import Infeasible
from ansible_collections.hpc.compute.plugins.module_utils.mig.grid import grid_of
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_names import ProfileName, profile_name
from ansible_collections.hpc.compute.plugins.module_utils.mig.resolve import demand_on
from unit.mig.plan_oracle import board_named


def ask(key: str, **counts: int) -> Demand | Infeasible:
    board = board_named(key)
    named = {name.replace("_", "."): count for name, count in counts.items()}
    return demand_on(board, True, tuple((parsed(name), count) for name, count in named.items()))


def parsed(name: str) -> ProfileName:
    found = profile_name(name)
    assert isinstance(found, ProfileName)
    return found


def names(key: str, demand: Demand | Infeasible) -> list[str]:
    board = board_named(key)
    assert isinstance(demand, Demand)
    grid = grid_of(board)
    return [grid.profile(want.profile_id).name for want in demand.wants]


@pytest.mark.parametrize(
    ("key", "intent", "profile"),
    [
        ("h100_80", "1g", "1g.10gb"),
        ("a100_40", "1g", "1g.5gb"),
        ("h100_80", "2g", "2g.20gb"),
        ("h100_80", "3g", "3g.40gb"),
        ("h100_80", "4g", "4g.40gb"),
        ("h100_80", "7g", "7g.80gb"),
        ("h100_80", "half", "3g.40gb"),
        ("h100_80", "whole", "7g.80gb"),
        ("b300", "half", "3g.135gb"),
        ("a30", "1g", "1g.6gb"),
        ("a30", "half", "2g.12gb"),
        ("a30", "whole", "4g.24gb"),
        ("a30", "4g", "4g.24gb"),
        ("rtxpro6000", "1g", "1g.24gb"),
        ("rtxpro6000", "half", "2g.48gb"),
        ("rtxpro6000", "whole", "4g.96gb"),
        ("h100_80", "1g+me", "1g.10gb+me"),
        ("rtxpro6000", "1g-me", "1g.24gb-me"),
        ("rtxpro6000", "half+me.all", "2g.48gb+me.all"),
        ("rtxpro6000", "whole+gfx", "4g.96gb+gfx"),
        ("a30", "3g", None),
        ("h100_80", "5g", None),
        ("h100_80", "half+me", None),
        ("a30", "half+me", "2g.12gb+me"),
    ],
)
def test_intents_are_resolved_per_board(key: str, intent: str, profile: str | None) -> None:
    demand = ask(key, **{intent: 1})
    if profile is None:
        assert isinstance(demand, Infeasible)
        assert demand.code == "profile_unknown"
    else:
        assert names(key, demand) == [profile]


@pytest.mark.parametrize("board", boards(), ids=lambda board: board.key)
def test_every_profile_is_found_by_its_own_name_and_two_halves_fit(board: Board) -> None:
    for profile in board.profiles:
        assert names(board.key, ask(board.key, **{profile.name.replace(".", "_"): 1})) == [profile.name]
    halves = ask(board.key, half=2)
    assert isinstance(halves, Demand)
    assert grid_of(board).place(0, tuple(want.profile_id for want in halves.wants)) is not None


def test_an_intent_and_a_name_of_the_same_profile_add_up() -> None:
    assert ask("h100_80", **{"1g": 2, "1g_10gb": 3}) == ask("h100_80", **{"1g": 5})


def test_off_asks_for_nothing() -> None:
    board = board_named("a30")
    assert demand_on(board, False, ()) is MIG_OFF


@pytest.mark.parametrize(
    ("counts", "splits"),
    [
        ({"1c_3g_40gb": 3}, [(1, 1, 1)]),
        ({"1c_3g_40gb": 4}, [(1,), (1, 1, 1)]),
        ({"2c_3g_40gb": 1, "1c_3g_40gb": 2}, [(1,), (2, 1)]),
        ({"2c_3g_40gb": 1, "1c_3g_40gb": 1, "3g_40gb": 1}, [(2, 1), (3,)]),
        ({"3c_3g_40gb": 1}, [(3,)]),
    ],
)
def test_compute_instances_share_gpu_instances(counts: dict[str, int], splits: list[tuple[int, ...]]) -> None:
    demand = ask("h100_80", **counts)
    assert demand == Demand(True, tuple(Want(9, split) for split in splits))


def test_compute_instance_sizes_that_no_driver_makes_are_unknown() -> None:
    demand = ask("h100_80", **{"3c_4g_40gb": 1})
    assert isinstance(demand, Infeasible)
    assert "found 3c.4g.40gb; the nearest layout that fits is 1 x 4g.40gb, with 4g.40gb in place of 3c.4g.40gb" in (
        demand.describe()
    )


def test_a_name_of_another_board_is_answered_with_what_was_probably_meant() -> None:
    demand = ask("a100_40", **{"3g_40gb": 1, "1g_5gb": 2})
    assert isinstance(demand, Infeasible)
    text = demand.describe()
    assert text.startswith("expected profiles of A100/A800 40GB (1g.5gb, 1g.5gb+me, ")
    assert "or intents, found 3g.40gb; the nearest layout that fits is " in text
    assert text.endswith("1 x 3g.20gb, 2 x 1g.5gb, with 3g.20gb in place of 3g.40gb")


def test_attributes_count_more_than_memory_in_what_was_probably_meant() -> None:
    demand = ask("h100_80", **{"1g_5gb+me": 1, "3g+me": 1})
    assert isinstance(demand, Infeasible)
    assert demand.nearest is not None
    assert dict(demand.nearest.changed) == {"1g.5gb+me": "1g.10gb+me", "3g+me": "3g.40gb"}


def test_what_has_no_counterpart_is_dropped_under_its_own_name() -> None:
    demand = ask("a30", **{"3g_20gb": 2, "half+gfx": 1, "1g": 1})
    assert isinstance(demand, Infeasible)
    assert demand.nearest is not None
    assert dict(demand.nearest.dropped) == {"3g.20gb": 2, "half+gfx": 1}
    assert dict(demand.nearest.mig_devices) == {"1g.6gb": 1}
    too_many = ask("h100_80", **{"7g_94gb": 1, "1g": 7})
    assert isinstance(too_many, Infeasible)
    assert too_many.nearest is not None
    assert dict(too_many.nearest.dropped) == {"7g.94gb": 1}
    assert not too_many.nearest.changed


def test_profiles_of_equal_slices_differ_in_memory() -> None:
    board = board_named("h100_80")
    double = [one for one in board.profiles if one.compute_slices == 1 and one.memory_slots == 2]
    assert [isinstance(one, Profile) and one.name for one in double] == ["1g.20gb"]
