# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A recorded inventory that is none is told as such."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory, Problem
from ansible_collections.hpc.compute.plugins.module_utils.mig.fleet import Planner, Wishes
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import devices
from unit.slurm.machines import gpu, machine


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_what_is_no_dictionary_is_refused_by_type(data: Any) -> None:
    with pytest.raises(ValueError, match=f"as a dictionary, found {type(data).__name__}"):
        Inventory.from_dict(data)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _places(entry, (*path, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = copy.copy(value)
    copied[path[0]] = _with(value[path[0]], path[1:], new)
    return copied


_CUT = machine(gpu(0, profiles=("1g.10gb", "1g.10gb")), gpu(1), problems=(Problem("x", "y", None),)).to_dict()
_LAYOUT = [{"devices": ["*H100*", f"GPU-{0:08}-0000-0000-0000-{0:012}"], "mig-enabled": True, "mig-devices": {"1g": 3}}]
_WRONG: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "x", "\x00", [], [1], {}, {"a": 1}, [[]], [None])


def test_values_of_another_kind_are_told_and_never_an_accident() -> None:
    planner = Planner(parse_entries(_LAYOUT), Wishes())
    refused = 0
    for path in _places(_CUT):
        for new in _WRONG:
            data = _with(_CUT, path, new)
            try:
                planner.recorded(data)
                devices(Inventory.from_dict(data))
            except ValueError:
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    ("path", "new", "told"),
    [
        (("gpus", 0, "index"), "0", "expected index to be int | None, found '0'"),
        (("gpus", 0, "mig", "capable"), 1, "expected capable to be bool, found 1"),
        (("gpus", 0, "minor"), True, "expected minor to be int | None, found True"),
        (("gpus", 0, "device_id"), 2330, "expected device_id to be str, found 2330"),
        (("gpus", 0, "nvlink_peers"), {"a": "b"}, "expected nvlink_peers to be "),
        (("gpus", 0, "device_files"), [1], "expected device_files to be "),
        (("gpus", 0, "gpu_instances", 0, "placement", "start"), 10**30, "in the memory slots of a board"),
    ],
)
def test_the_field_is_named(path: tuple[Any, ...], new: Any, told: str) -> None:
    with pytest.raises(ValueError, match=r"no GPU inventory of schema 1: ") as caught:
        Inventory.from_dict(_with(_CUT, path, new))
    assert told in str(caught.value)
