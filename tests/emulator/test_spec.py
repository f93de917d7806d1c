# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machine specifications: what they mean and how a bad one is refused."""

from __future__ import annotations

import pytest
from emulator.boards import boards
from emulator.machine import Machine, Options
from emulator.spec import SpecError, parse


def test_counts_boards_and_slices() -> None:
    gpus = parse("2xh100-80, a100-40=3g.20gb:1g.5gb*2:1g.10gb@0,a30=")
    assert [gpu.board.key for gpu in gpus] == ["h100-80", "h100-80", "a100-40", "a30"]
    assert gpus[0].slices is None
    assert gpus[3].slices == ()
    assert gpus[2].slices is not None
    shapes = [(entry.profile.name, entry.start) for entry in gpus[2].slices]
    assert shapes == [("3g.20gb", None), ("1g.5gb", None), ("1g.5gb", None), ("1g.10gb", 0)]


def test_none_is_a_machine_without_gpus() -> None:
    assert parse("none") == []


@pytest.mark.parametrize("key", boards())
def test_every_board_can_be_asked_for(key: str) -> None:
    machine = Machine.build(key, Options(numa=["0-3"]))
    assert machine.gpus[0].board.key == key


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", r"found '' in"),
        ("h999", r"unknown board 'h999' in 'h999': boards are a30, a100-40"),
        ("h100-80,,a30", r"found '' in"),
        ("0xa30", "count of at least 1"),
        ("33xa30", "at most 32 GPUs, found 33"),
        ("a30=1g.5gb", r"unknown slice '1g.5gb' in 'a30=1g.5gb': profiles of a30 are 1g.6gb"),
        ("a30=1g.6gb**2", "unknown slice"),
        ("h100-80=3g.40gb@1", r"3g.40gb can't start at 1 .*: it can at \[0, 4\]"),
        ("t4=", "board 't4' has no MIG"),
    ],
)
def test_a_bad_one_names_the_part_and_what_would_do(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(spec)


def test_slices_that_do_not_fit_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"no room for 3g.20gb on GPU 0 \(a100-40\).*beside 1g.5gb@6"):
        Machine.build("a100-40=1g.5gb:1g.5gb:2g.10gb:3g.20gb", Options(numa=["0"]))


def test_the_driver_is_one_that_all_boards_work_with() -> None:
    assert Machine.build("h100-80").driver_version == "550.163.01"
    assert Machine.build("h100-80,b200,a30").driver_version == "570.133.20"
    assert Machine.build("h100-80", Options(driver_version="535.1")).driver_version == "535.1"
    with pytest.raises(ValueError, match=r"driver 550.163.01 is too old for these boards, which need 570.133.20"):
        Machine.build("b200", Options(driver_version="550.163.01"))
    with pytest.raises(ValueError, match="expected a driver version"):
        Machine.build("b200", Options(driver_version="new"))
