# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue and the emulator's table of boards were typed apart, from the same published listings: they agree."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig import catalog
from emulator.boards import Board, boards

MIG_BOARDS = [board for board in boards().values() if board.mig]
EACH = pytest.mark.parametrize("board", MIG_BOARDS, ids=lambda board: board.key)


def of_catalogue(board: Board) -> catalog.Board:
    found = catalog.board_for(board.pci_device_id)
    assert found is not None
    return found


def test_both_know_the_same_board_classes() -> None:
    assert {board.board_class for board in MIG_BOARDS} == {board.key for board in catalog.boards()}


@pytest.mark.parametrize("board", [board for board in boards().values() if not board.mig], ids=lambda board: board.key)
def test_boards_without_mig_are_not_in_the_catalogue(board: Board) -> None:
    assert catalog.board_for(board.pci_device_id) is None


@EACH
def test_class_grid_and_mode_agree(board: Board) -> None:
    assert board.mig is not None
    known = of_catalogue(board)
    assert known.key == board.board_class
    assert (known.memory_slots, known.compute_slices) == (board.mig.memory_slots, board.mig.compute_slices)
    assert known.mode_semantics == {"ampere": "ampere", "hopper+": "hopper"}[board.mig.mode]
    assert known.min_driver == board.min_driver


@EACH
def test_profiles_agree(board: Board) -> None:
    assert board.mig is not None
    known = {profile.id: profile for profile in of_catalogue(board).profiles}
    assert set(known) == {profile.id for profile in board.mig.profiles}
    for theirs in board.mig.profiles:
        ours = known[theirs.id]
        assert (ours.name, ours.compute_slices, ours.memory_slots, ours.starts, ours.max_count) == (
            theirs.name,
            theirs.compute,
            theirs.size,
            theirs.starts,
            theirs.max,
        )
        if ours.sm_count is not None:
            assert ours.sm_count == theirs.sm
        if ours.memory_mib is not None:
            assert abs(ours.memory_mib - theirs.memory_mib) <= 1
        if ours.engines is not None:
            engines = theirs.engines
            assert astuple(ours.engines) == (engines.decoder, engines.encoder, engines.jpeg, engines.ofa)
