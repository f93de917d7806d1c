# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boards' tables prove themselves: the grid, the counts, and combinations that NVIDIA documents."""

from __future__ import annotations

from itertools import pairwise

import pytest
from emulator import topology
from emulator.boards import Board, Profile, boards
from emulator.errors import NvmlError
from emulator.gpu import COMPUTE_PLACEMENTS, COMPUTE_PROFILE_IDS, Gpu
from emulator.machine import Machine, Options

MIG_BOARDS = [key for key, board in boards().items() if board.mig is not None]


def gpu(key: str) -> Gpu:
    return Machine.build(f"{key}=", Options(numa=["0"])).gpus[0]


def profile(board: Board, name: str) -> Profile:
    assert board.mig is not None
    found = board.mig.by_name(name)
    assert found is not None
    return found


def most(board: Board, wanted: Profile) -> int:
    """The most of a profile that fit, found by trying every set of starts."""
    assert board.mig is not None
    best = 0
    for chosen in range(1 << len(wanted.starts)):
        starts = [start for bit, start in enumerate(wanted.starts) if chosen >> bit & 1]
        apart = all(second - first >= wanted.size for first, second in pairwise(starts))
        if apart and len(starts) * wanted.compute <= board.mig.compute_slices:
            best = max(best, len(starts))
    return best


def test_no_two_boards_share_a_pci_id_or_a_name() -> None:
    assert len({board.pci_device_id for board in boards().values()}) == len(boards())
    assert len({board.name for board in boards().values()}) == len(boards())


@pytest.mark.parametrize("key", MIG_BOARDS)
def test_profiles_stay_inside_the_grid_and_are_told_apart(key: str) -> None:
    mig = boards()[key].mig
    assert mig is not None
    for kind in ("id", "nvml", "name"):
        values = [getattr(entry, kind) for entry in mig.profiles]
        assert len(set(values)) == len(values), kind
    for entry in mig.profiles:
        assert all(0 <= start <= mig.memory_slots - entry.size for start in entry.starts), entry
        assert entry.compute <= mig.compute_slices
        assert entry.name.startswith(f"{entry.compute}g.")
        assert entry.compute in COMPUTE_PLACEMENTS
    assert mig.whole.size == mig.memory_slots
    assert mig.whole.compute == mig.compute_slices


@pytest.mark.parametrize("key", MIG_BOARDS)
def test_the_most_of_each_profile_is_what_the_grid_allows_and_the_driver_accepts(key: str) -> None:
    board = boards()[key]
    assert board.mig is not None
    for entry in board.mig.profiles:
        assert entry.max == (1 if "+me" in entry.name else most(board, entry)), entry.name
        filled = gpu(key)
        assert filled.remaining(entry) == entry.max
        for _ in range(entry.max):
            filled.create_instance(entry.id)
        assert filled.remaining(entry) == 0
        with pytest.raises(NvmlError, match="INSUFFICIENT_RESOURCES"):
            filled.create_instance(entry.id)


def fits(key: str, *wanted: str) -> bool:
    """Whether there is a place for all, each at one of its starts: an exact search through the driver's own rules."""
    return _place(gpu(key), [profile(boards()[key], name) for name in wanted])


def _place(board: Gpu, wanted: list[Profile]) -> bool:
    if not wanted:
        return True
    for start in board.free_starts(wanted[0]):
        instance = board.create_instance(wanted[0].id, start, wanted[0].size)
        found = _place(board, wanted[1:])
        board.destroy_instance(instance)
        if found:
            return True
    return False


@pytest.mark.parametrize(
    ("key", "wanted", "expected"),
    [
        ("a100-40", ["4g.20gb", "3g.20gb"], True),
        ("a100-40", ["4g.20gb", "3g.20gb", "1g.5gb"], False),
        ("a100-40", ["3g.20gb", "3g.20gb"], True),
        ("a100-40", ["3g.20gb", "3g.20gb", "1g.5gb"], False),
        ("h100-80", ["3g.40gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb"], True),
        ("h100-80", ["2g.20gb", "2g.20gb", "2g.20gb", "1g.10gb"], True),
        ("h100-80", ["1g.20gb", "1g.20gb", "1g.20gb", "1g.20gb"], True),
        ("h100-80", ["1g.20gb", "1g.20gb", "1g.20gb", "1g.20gb", "1g.10gb"], False),
        ("h100-80", ["1g.10gb+me", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb"], True),
        ("h100-80", ["7g.80gb", "1g.10gb"], False),
        ("a30", ["2g.12gb", "1g.6gb", "1g.6gb"], True),
        ("a30", ["2g.12gb+me", "1g.6gb+me"], False),
        ("rtxpro6000", ["1g.24gb+me.all", "1g.24gb-me", "1g.24gb-me", "1g.24gb-me"], True),
        ("rtxpro6000", ["1g.24gb+me.all", "1g.24gb"], False),
        ("rtxpro6000", ["2g.48gb+me.all", "2g.48gb-me"], True),
        ("rtxpro6000", ["2g.48gb+me.all", "2g.48gb"], False),
        ("rtxpro6000", ["2g.48gb", "1g.24gb+gfx", "1g.24gb+me"], True),
        ("rtxpro6000", ["1g.24gb+me", "1g.24gb+me.all"], False),
    ],
)
def test_combinations(key: str, wanted: list[str], expected: bool) -> None:
    assert fits(key, *wanted) is expected


def test_a_3g_leaves_room_for_four_1g_only_in_the_upper_half() -> None:
    for start, room in ((0, 3), (4, 4)):
        board = gpu("h100-80")
        board.create_instance(profile(board.board, "3g.40gb").id, start, 4)
        assert board.remaining(profile(board.board, "1g.10gb")) == room


@pytest.mark.parametrize("slices", COMPUTE_PLACEMENTS)
def test_compute_placements_stay_inside_their_instance_and_can_fill_it(slices: int) -> None:
    for size, starts in COMPUTE_PLACEMENTS[slices].items():
        assert size in COMPUTE_PROFILE_IDS
        assert all(second - first >= size for first, second in pairwise(starts))
        assert all(start + size <= slices for start in starts)
    assert COMPUTE_PLACEMENTS[slices][slices] == (0,)


@pytest.mark.parametrize(("key", "count"), [("h100-80", 2), ("h100-80", 8), ("v100", 8), ("a30", 3), ("a100-40", 4)])
def test_a_link_has_the_same_two_ends_seen_from_both(key: str, count: int) -> None:
    row = [boards()[key]] * count
    link = boards()[key].nvlink
    assert link is not None
    table = [[topology.link_target(row, place, number) for number in range(link.links)] for place in range(count)]
    for one in range(count):
        assert one not in table[one]
        for other in range(count):
            assert table[one].count(other) == table[other].count(one)


def test_cpu_lists() -> None:
    assert topology.parse_cpus("0-2,8") == [0, 1, 2, 8]
    assert topology.cpu_mask("0-2,8") == 0b1_0000_0111
    for bad in ("", "3-1", "a", "1,,2"):
        with pytest.raises(ValueError, match="CPU list"):
            topology.parse_cpus(bad)
