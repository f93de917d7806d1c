# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue proves itself: what it says fits does, no more does, and NVIDIA's documented combinations come out.

The search here is written for this test and tries everything; it shares nothing with the code that plans.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import astuple
from functools import cache

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig import catalog
from ansible_collections.hpc.compute.plugins.module_utils.mig.boards import BOARDS, GRIDS
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, ModeSemantics, Profile

ALL = pytest.mark.parametrize("board", catalog.boards(), ids=lambda board: board.key)


def within_budgets(board: Board, profiles: list[Profile]) -> bool:
    if sum(profile.compute_slices for profile in profiles) > board.compute_slices:
        return False
    if sum(profile.has_media_extensions for profile in profiles) > 1:
        return False
    if board.engine_budget is None:
        return True
    engines = [astuple(profile.engines) for profile in profiles if profile.engines]
    limits = astuple(board.engine_budget)
    return all(sum(used[kind] for used in engines) <= limit for kind, limit in enumerate(limits))


def fits(board: Board, profiles: list[Profile], taken: frozenset[int] = frozenset()) -> bool:
    """Whether all *profiles* find a place beside the slots that are *taken*, trying every start of each."""
    if not within_budgets(board, profiles):
        return False
    if not profiles:
        return True
    first, rest = profiles[0], profiles[1:]
    for start in first.starts:
        slots = frozenset(range(start, start + first.memory_slots))
        if not slots & taken and fits_slots(board, tuple(rest), taken | slots):
            return True
    return False


@cache
def fits_slots(board: Board, profiles: tuple[Profile, ...], taken: frozenset[int]) -> bool:
    return fits(board, list(profiles), taken)


def named(board: Board, *names: str) -> list[Profile]:
    found = [board.profile_named(name) for name in names]
    assert None not in found
    return [profile for profile in found if profile is not None]


def key(name: str) -> Board:
    board = catalog.board_by_key(name)
    assert board is not None
    return board


@ALL
def test_ids_and_names_are_unique_on_a_board(board: Board) -> None:
    assert len({profile.id for profile in board.profiles}) == len(board.profiles)
    assert len({profile.name for profile in board.profiles}) == len(board.profiles)


def test_a_pci_device_id_belongs_to_one_board() -> None:
    ids = Counter(pci_id for board in catalog.boards() for pci_id in board.pci_device_ids)
    assert [pci_id for pci_id, count in ids.items() if count > 1] == []
    assert all(re.fullmatch("[0-9a-f]{4}", pci_id) for pci_id in ids)


@ALL
def test_a_board_has_all_profiles_of_its_grid(board: Board) -> None:
    assert {profile.id for profile in board.profiles} == set(GRIDS[BOARDS[board.key]["grid"]]["shapes"])


@ALL
def test_placements_are_inside_the_grid_and_ordered(board: Board) -> None:
    for profile in board.profiles:
        assert profile.starts == tuple(sorted(set(profile.starts)))
        assert all(start >= 0 and start + profile.memory_slots <= board.memory_slots for start in profile.starts)


@ALL
def test_the_most_that_fit_is_exactly_that(board: Board) -> None:
    for profile in board.profiles:
        assert fits(board, [profile] * profile.max_count), profile.name
        assert not fits(board, [profile] * (profile.max_count + 1)), profile.name


@ALL
def test_names_tell_compute_slices_and_memory(board: Board) -> None:
    for profile in board.profiles:
        match = re.fullmatch(r"(\d+)g\.(\d+)gb(\+me|\+me\.all|-me|\+gfx)?", profile.name)
        assert match, profile.name
        assert int(match.group(1)) == profile.compute_slices
        if profile.memory_mib is not None:
            assert 0.8 < profile.memory_mib / 1024 / int(match.group(2)) <= 1.0, profile.name


@ALL
def test_memory_grows_with_slots(board: Board) -> None:
    known = sorted(
        (profile.memory_slots, profile.memory_mib) for profile in board.profiles if profile.memory_mib is not None
    )
    assert [memory for _slots, memory in known] == sorted(memory for _slots, memory in known)


@ALL
def test_profiles_with_media_extensions_are_marked(board: Board) -> None:
    assert all(profile.max_count == 1 for profile in board.profiles if profile.has_media_extensions)
    assert not any(profile.has_media_extensions for profile in board.profiles if profile.name.endswith("-me"))
    assert any(profile.has_media_extensions for profile in board.profiles)


@ALL
def test_engines_limit_rtx_pro_and_no_other(board: Board) -> None:
    limited = board.key == "rtxpro6000"
    assert (board.engine_budget is not None) == limited
    assert all((profile.engines is not None) == limited for profile in board.profiles)


EIGHT = [board for board in catalog.boards() if board.memory_slots == 8]


def of_sizes(board: Board, *ids: int) -> list[Profile]:
    profiles = [board.profile(profile_id) for profile_id in ids]
    assert None not in profiles
    return [profile for profile in profiles if profile is not None]


@pytest.mark.parametrize("board", EIGHT, ids=lambda board: board.key)
def test_documented_combinations_of_the_eight_slot_grid(board: Board) -> None:
    one, three, four = 19, 9, 5
    assert fits(board, of_sizes(board, four, three))
    assert not fits(board, of_sizes(board, three, four, one))
    assert fits(board, of_sizes(board, three, three))
    for profile in board.profiles:
        assert not fits(board, [*of_sizes(board, three, three), profile])  # one compute slice left, but no memory slot
    ones = of_sizes(board, one, one, one, one)
    assert fits(board, ones, frozenset(range(4, 8)))  # 3g at slot 4
    assert not fits(board, ones, frozenset(range(4)))  # 3g at slot 0
    assert fits(board, of_sizes(board, three, one, one, one, one))
    assert not fits(board, of_sizes(board, three, one, one, one, one, one))
    assert fits(board, of_sizes(board, 14, 14, 14, one))
    assert not fits(board, of_sizes(board, 14), frozenset(range(6)))  # 2g has no place at slots 6 and 7 ...
    assert fits(board, of_sizes(board, 15), frozenset(range(6)))  # ... where a 1g with double memory has
    assert not fits(board, of_sizes(board, 15, 15, 15, 15, one))
    assert fits(board, of_sizes(board, 20, *[one] * 6))


def test_documented_combinations_of_a30() -> None:
    board = key("a30")
    assert fits(board, named(board, "2g.12gb", "1g.6gb", "1g.6gb"))
    assert fits(board, named(board, "2g.12gb", "2g.12gb+me"))
    assert not fits(board, named(board, "2g.12gb+me", "1g.6gb+me"))
    assert not fits(board, named(board, "2g.12gb", "2g.12gb", "1g.6gb"))
    assert board.profile_named("3g.18gb") is None


def test_documented_combinations_of_rtx_pro() -> None:
    board = key("rtxpro6000")
    assert fits(board, named(board, "1g.24gb+gfx", "1g.24gb-me", "2g.48gb"))
    assert fits(board, named(board, "1g.24gb+me.all", "1g.24gb-me", "1g.24gb-me", "1g.24gb-me"))
    assert not fits(board, named(board, "1g.24gb+me.all", "1g.24gb"))
    assert not fits(board, named(board, "2g.48gb+me.all", "2g.48gb"))
    assert fits(board, named(board, "2g.48gb+me.all", "2g.48gb-me"))
    assert fits(board, named(board, "1g.24gb+me", "1g.24gb", "1g.24gb+gfx", "1g.24gb"))


@pytest.mark.parametrize(
    ("pci_id", "board"),
    [
        ("20b7", "a30"),
        ("20B0", "a100_40"),
        ("20b5", "a100_80"),
        ("2330", "h100_80"),
        ("233A", "h100_94"),
        ("2342", "h100_96"),
        ("2348", "gh200_144"),
        ("233b", "h200_141"),
        ("2901", "b200"),
        ("2941", "gb200"),
        ("3182", "b300"),
        ("31c2", "gb300"),
        ("2bb1", "rtxpro6000"),
    ],
)
def test_boards_are_found_by_pci_device_id(pci_id: str, board: str) -> None:
    found = catalog.board_for(pci_id)
    assert found is not None
    assert found == key(board)


@pytest.mark.parametrize("pci_id", ["1db4", "2bb3", "2b00", "", "0x2330"])
def test_other_boards_are_not(pci_id: str) -> None:
    assert catalog.board_for(pci_id) is None


def test_a_key_that_is_none_finds_nothing() -> None:
    assert catalog.board_by_key("h100-80") is None


def test_mode_semantics_follow_the_architecture_also_within_a_class() -> None:
    ampere = {board.key for board in catalog.boards() if board.mode_semantics is ModeSemantics.AMPERE}
    assert ampere == {"a30", "a100_40", "a100_80"}
    pg506, gh200 = catalog.board_for("20b6"), catalog.board_for("2342")
    assert pg506 is not None
    assert gh200 is not None
    assert (pg506.key, gh200.key) == ("h100_96", "h100_96")
    assert (pg506.mode_semantics, gh200.mode_semantics) == (ModeSemantics.AMPERE, ModeSemantics.HOPPER)
    assert (pg506.min_driver, gh200.min_driver) == (None, "525.85.12")
    assert pg506.profiles == gh200.profiles


def test_one_device_id_may_need_a_newer_driver_than_its_class() -> None:
    h20 = catalog.board_for("2329")
    assert h20 is not None
    assert (h20.key, h20.model, h20.min_driver, h20.mode_semantics) == (
        "h100_96",
        "H20 96GB",
        "535.161",
        ModeSemantics.HOPPER,
    )


def test_variations_are_of_device_ids_of_their_class() -> None:
    for data in BOARDS.values():
        assert set(data["variations"]) <= set(data["pci_device_ids"])


def test_profiles_are_found_by_id_and_by_name() -> None:
    board = key("a100_40")
    profile = board.profile(20)
    assert profile is not None
    assert (profile.name, profile.sm_count, profile.memory_mib) == ("1g.5gb+me", 14, 4864)
    assert board.profile_named("1g.5gb+me") == profile
    assert board.profile(99) is None
    assert board.profile_named("1g.5GB") is None


@ALL
def test_drivers_are_versions_or_unknown(board: Board) -> None:
    assert board.min_driver is None or re.fullmatch(r"\d{3}(\.\d+)+", board.min_driver)


def test_boards_whose_placements_were_seen_are_marked() -> None:
    assert {board.key for board in catalog.boards() if board.placements_observed} == {
        "a30",
        "a100_40",
        "a100_80",
        "h100_80",
        "h100_94",
        "rtxpro6000",
    }
