# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which entry names which GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Gpu, MigState
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import LayoutError, parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import board_of
from ansible_collections.hpc.compute.plugins.module_utils.mig.targets import Targets, targets

UUID = "GPU-6f2b1c3d-0a1b-2c3d-4e5f-60718293a4b5"
ON = MigState(True, True, True)
H100 = Gpu(
    "0000:17:00.0",
    "10de",
    "2330",
    subsystem_vendor_id="10de",
    subsystem_device_id="16c1",
    index=0,
    uuid=UUID,
    name="NVIDIA H100 80GB HBM3",
    mig=ON,
)
A30 = Gpu("0000:3b:00.0", "10de", "20b7", index=1, name="NVIDIA A30", mig=ON)
T4 = Gpu("0000:5e:00.0", "10de", "1eb8", index=2, name="Tesla T4")
GPUS = (H100, A30, T4)


def match(*entries: dict[str, Any], gpus: tuple[Gpu, ...] = GPUS) -> Targets:
    ready = [{"devices": "all", "mig-enabled": True, "mig-devices": {}} | entry for entry in entries]
    return targets(parse_entries(ready), gpus, [board_of(gpu) for gpu in gpus])


def hit(found: Targets) -> list[int | None]:
    """For each GPU the position of the entry that names it."""
    return [None if one.entry is None else one.entry.path[0] for one in found.targets]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"devices": "all"}, [0, 1]),
        ({"devices": [0, 1]}, [0, 1]),
        ({"devices": ["0000:3B:00.0"]}, [1]),
        ({"devices": ["3b:00.0", 0]}, [0, 1]),
        ({"devices": [UUID.upper().replace("GPU", "GPU")]}, [0]),
        ({"devices": "*h100*"}, [0]),
        ({"devices": "NVIDIA ?30"}, [1]),
        ({"devices": "h100-[89]0"}, [0]),
        ({"devices": "*A30 24GB*"}, [1]),
        ({"devices": "*v100*"}, []),
        ({"device-filter": "0x233010DE"}, [0]),
        ({"device-filter": ["0x20B710de", "0x233010DE"]}, [0, 1]),
        ({"device-filter": "0x233010DE:0x16C110DE"}, [0]),
        ({"device-filter": "0x233010DE:0x16C210DE"}, []),
        ({"device-filter": "0x20B710DE:0x16C110DE"}, []),
        ({"device-filter": "0x20B710DE", "devices": [0]}, []),
    ],
)
def test_gpus_are_named_in_many_ways(entry: dict[str, Any], named: list[int]) -> None:
    found = match(entry)
    assert hit(found) == [0 if number in named else None for number in range(3)]
    assert not found.missing


def test_gpus_that_cannot_do_mig_are_passed_over_unless_named_one_by_one() -> None:
    assert [one.passed_over for one in match({"devices": "all"}).targets] == [False, False, True]
    assert [one.passed_over for one in match({"devices": "*T4*"}).targets] == [False, False, True]
    by_index = match({"devices": [2]})
    assert hit(by_index) == [None, None, 0]
    assert not any(one.passed_over for one in by_index.targets)


def test_a_known_board_whose_driver_says_no_is_not_passed_over() -> None:
    refusing = replace(H100, mig=MigState(False))
    assert hit(match({"devices": "all"}, gpus=(refusing,))) == [0]


def test_without_a_driver_the_position_is_the_index() -> None:
    bare = tuple(replace(gpu, index=None, name=None, uuid=None) for gpu in GPUS)
    assert hit(match({"devices": [1]}, gpus=bare)) == [None, 0, None]
    assert hit(match({"devices": "h100*"}, gpus=bare)) == [0, None, None]


def test_two_entries_for_one_gpu_are_refused_with_both_places() -> None:
    with pytest.raises(LayoutError, match=r"\[1\]: .*found 0000:17:00.0 named by this entry and by the one at \[0\]"):
        match({"devices": "*H100*"}, {"devices": [0]})


def test_names_of_single_gpus_must_have_one() -> None:
    found = match({"devices": [7, "0000:99:00.0", UUID.replace("6", "7"), "*nothing*"]})
    assert [problem.code for problem in found.missing] == ["device_missing"] * 3
    assert (
        "expected a GPU with index 7 ([0]), found 0000:17:00.0, 0000:3b:00.0, 0000:5e:00.0" in found.missing[0].message
    )
    assert "pci address 0000:99:00.0" in found.missing[1].message
    assert "found no GPU at all" in match({"devices": [0]}, gpus=()).missing[0].message
    # Present, and of another kind than the filter lets through: that is what filters are for.
    assert not match({"devices": [0], "device-filter": "0x20B710DE"}).missing
