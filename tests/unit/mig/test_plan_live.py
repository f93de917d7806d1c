# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver's word on profiles over the catalogue's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, ModeSemantics
from ansible_collections.hpc.compute.plugins.module_utils.mig.demand import Demand
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.mig.live import LiveBoard, LiveProfile, overlay
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import plan_machine
from ansible_collections.hpc.compute.plugins.module_utils.mig.plan import GpuPlan, plan_gpu
from unit.mig.plan_oracle import board_named, plain_gpu, wants

GB300, A30 = board_named("gb300"), board_named("a30")


def reading(board: Board) -> list[LiveProfile]:
    """What a driver says that agrees with the catalogue."""
    return [
        LiveProfile(one.id, one.name, one.compute_slices, one.memory_slots, one.starts, one.max_count)
        for one in board.profiles
    ]


def laid(board: Board | None, profiles: list[LiveProfile]) -> LiveBoard:
    found = overlay(board, profiles, "NVIDIA New", "abcd")
    assert found is not None
    return found


def test_a_driver_that_agrees_changes_nothing() -> None:
    found = laid(GB300, reading(GB300))
    assert not found.differences
    assert {one.id: one for one in found.board.profiles} == {one.id: one for one in GB300.profiles}


def test_a_driver_that_lists_nothing_leaves_the_catalogue_and_without_both_there_is_no_board() -> None:
    assert laid(GB300, []) == LiveBoard(GB300)
    assert overlay(None, [], "NVIDIA New", "abcd") is None


def test_new_names_for_known_ids_are_taken_and_told_and_layouts_may_use_them() -> None:
    renamed = {"1g.35gb": "1g.31gb", "3g.139gb": "3g.126gb", "7g.278gb": "7g.251gb"}
    profiles = [replace(one, name=renamed.get(one.name or "", one.name)) for one in reading(GB300)]
    found = laid(GB300, profiles)
    assert found.differences == (
        "name of profile 0: the catalogue has 7g.278gb, the driver 7g.251gb",
        "name of profile 9: the catalogue has 3g.139gb, the driver 3g.126gb",
        "name of profile 19: the catalogue has 1g.35gb, the driver 1g.31gb",
    )
    gpu = plain_gpu(GB300, False)
    entries = parse_entries([{"devices": "all", "mig-enabled": True, "mig-devices": {"1g.31gb": 7}}])
    assert not plan_machine(Inventory((gpu,)), entries).feasible
    assert plan_machine(Inventory((gpu,)), entries, live_boards={gpu.pci_address: found.board}).feasible


def test_other_placements_are_taken_with_the_drivers_count() -> None:
    profiles = [
        replace(one, starts=(4, 0), max_count=9, memory_slots=3, compute_slices=2) if one.id == 9 else one
        for one in reading(GB300)
    ]
    found = laid(GB300, profiles)
    changed = found.board.profile(9)
    assert changed is not None
    assert (changed.starts, changed.max_count, changed.memory_slots, changed.compute_slices) == ((0, 4), 9, 3, 2)
    assert found.differences == (
        "compute slices of profile 9: the catalogue has 3, the driver 2",
        "memory slots of profile 9: the catalogue has 4, the driver 3",
    )
    moved = laid(GB300, [replace(one, starts=(2,)) if one.id == 9 else one for one in reading(GB300)])
    assert moved.differences == ("starts of profile 9: the catalogue has (0, 4), the driver (2,)",)


def test_a_wrong_count_with_right_placements_is_not_believed() -> None:
    found = laid(A30, [replace(one, max_count=1) for one in reading(A30)])
    assert not found.differences
    assert isinstance(plan_gpu(plain_gpu(A30), found.board, Demand(True, wants(A30, *["1g.6gb"] * 4))), GpuPlan)


def test_profiles_that_only_one_of_both_has() -> None:
    profiles = [one for one in reading(A30) if one.id != 21]
    profiles.append(LiveProfile(99, None, 1, 1, (0, 5), 2, memory_mib=100, sm_count=5))
    found = laid(A30, profiles)
    new = found.board.profile(99)
    assert new is not None
    assert (new.name, new.starts, new.max_count, new.memory_mib, new.sm_count) == ("1g.profile99", (0, 5), 2, 100, 5)
    assert found.board.profile(21) is None
    assert found.board.memory_slots == 6
    assert found.differences == (
        "the driver has profile 99 (no name), the catalogue does not",
        "the catalogue has profile 21 (1g.6gb+me), the driver does not",
        "the driver places up to slot 5, the catalogue has 4 slots",
    )


def test_figures_the_driver_tells_replace_the_catalogues() -> None:
    profiles = [replace(one, name=None, memory_mib=7777, sm_count=3) for one in reading(A30)]
    found = laid(A30, profiles)
    assert not found.differences
    assert {(one.memory_mib, one.sm_count) for one in found.board.profiles} == {(7777, 3)}
    assert [one.name for one in found.board.profiles] == sorted(
        (one.name for one in A30.profiles), key=lambda name: next(p.id for p in A30.profiles if p.name == name)
    )


@pytest.mark.parametrize("name", ["1g.12gb", None])
def test_a_board_the_catalogue_does_not_know_is_planned_from_the_driver_alone(name: str | None) -> None:
    found = laid(None, [LiveProfile(14, name, 1, 2, (0, 2), 2), LiveProfile(0, "2g.24gb", 2, 4, (0,), 1)])
    assert found.differences == ("the catalogue does not know NVIDIA New",)
    board = found.board
    assert (board.memory_slots, board.compute_slices, board.mode_semantics) == (4, 2, ModeSemantics.AMPERE)
    assert board.pci_device_ids == ("abcd",)
    plan = plan_gpu(plain_gpu(board, False), board, Demand(True, wants(board, *[name or "1g.profile14"] * 2)))
    assert isinstance(plan, GpuPlan)
    assert [one.placement.start for one in plan.instances] == [0, 2]
