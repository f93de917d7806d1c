# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm's matching, on cases whose real outcome is known; tests/integration has many more, with the real slurmd."""

from __future__ import annotations

import random

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.binding import Outcome, bind
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import GresEntry, gres_of, parse_gres
from ansible_collections.hpc.compute.plugins.module_utils.slurm.match import check
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.slurm.machines import A100, H100, part, whole

_MIXED = [whole(0), part(1, 0, "3g.40gb"), part(1, 1, "1g.10gb")]


def _bound(outcome: Outcome) -> dict[str, str | None]:
    return {one.device.file.rpartition("/")[2]: one.label for one in outcome.bindings}


def test_an_incomplete_list_gives_the_whole_gpus_name_to_a_slice() -> None:
    outcome = bind(parse_gres("gpu:h100:1,gpu:3g.40gb:1"), _MIXED)
    assert _bound(outcome) == {"nvidia-cap111": "3g.40gb", "nvidia-cap113": "h100"}
    assert outcome.ignored == (whole(0),)
    assert outcome.missing == ()


def test_the_media_slice_is_taken_for_the_plain_one() -> None:
    outcome = bind(parse_gres("gpu:a100_1g.5gb:1"), [part(0, 0, "1g.5gb", A100), part(0, 1, "1g.5gb+me", A100)])
    assert [one.device.type for one in outcome.bindings] == ["nvidia_a100_1g.5gb+me"]


def test_a_long_name_goes_first_even_where_it_is_the_wrong_one() -> None:
    outcome = bind(parse_gres("gpu:nvidia_h100:1,gpu:3g.40gb:1,gpu:1g.10gb:1"), _MIXED)
    assert _bound(outcome) == {"nvidia-cap111": "3g.40gb", "nvidia-cap113": "nvidia_h100"}
    assert outcome.missing == (("1g.10gb", 1),)


def test_case_does_not_matter() -> None:
    assert len(bind(parse_gres("gpu:H100:1"), [whole(0)]).bindings) == 1


def test_a_hyphen_matches_nothing() -> None:
    outcome = bind(parse_gres("gpu:a100-1g.5gb:1"), [part(0, 0, "1g.5gb", A100)])
    assert outcome.bindings == ()
    assert outcome.missing == (("a100-1g.5gb", 1),)


def test_untyped_takes_devices_by_file() -> None:
    outcome = bind(parse_gres("gpu:2"), [part(1, 1, "1g.10gb"), part(1, 0, "3g.40gb"), whole(0)])
    assert [(one.label, one.device.file[:12]) for one in outcome.bindings] == [
        (None, "/dev/nvidia0"),
        (None, "/dev/nvidia1"),
    ]
    assert [one.type for one in outcome.ignored] == ["nvidia_h100_80gb_hbm3_1g.10gb"]


def test_mixed_does_not_start() -> None:
    with pytest.raises(ValueError, match="all with a type or all without"):
        bind([GresEntry("gpu", "a", 1), GresEntry("gpu", None, 1)], [whole(0)])


def test_nothing_configured_ignores_all() -> None:
    assert bind(parse_gres("nic:1"), [whole(0)]).ignored == (whole(0),)


def test_types_of_one_number_are_one_to_slurm() -> None:
    machine = [part(0, 0, "3g.47gb", "NVIDIA H100 NVL"), part(1, 0, "2g.48gb", "NVIDIA X")]
    outcome = bind(parse_gres("gpu:3g.47gb:1,gpu:2g.48gb:1"), machine)
    assert [one.label for one in outcome.bindings] == ["3g.47gb"]
    assert outcome.missing == (("3g.47gb", 1),)


def test_a_renamed_device_and_one_of_that_name_compete_by_file() -> None:
    """The slice, longest name, is renamed to the whole GPU's type; the GPU still has it, and its file comes first."""
    outcome = bind(parse_gres("gpu:nvidia_h100_80gb_hbm3:1"), [whole(0), part(1, 0, "1g.10gb")])
    assert [one.device for one in outcome.bindings] == [whole(0)]
    outcome = bind(parse_gres("gpu:nvidia_h100_80gb_hbm3:1"), [whole(2), part(1, 0, "1g.10gb")])
    assert [one.device.kind for one in outcome.bindings] == ["mig"]


def test_huge_counts_are_cheap() -> None:
    assert bind([GresEntry("gpu", "h100", 10**12)], [whole(0)]).missing == (("h100", 10**12 - 1),)


def test_whole_gpus_come_first_in_order_of_nvml() -> None:
    first = Device("gpu", "nvidia_t4", ("/dev/nvidia5",), "GPU-a", "0000:01:00.0", None, (-1, 0))
    second = Device("gpu", "nvidia_t4", ("/dev/nvidia1",), "GPU-b", "0000:02:00.0", None, (0, -1))
    cut = part(0, 0, "1g.10gb")
    outcome = bind(gres_of([cut, second, first]), [cut, second, first])
    assert [one.device for one in outcome.bindings] == [first, second, cut]


_PROFILES = ["1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "1c.3g.40gb"]


@st.composite
def _machines(draw: st.DrawFn) -> list[Device]:
    found: list[Device] = []
    for number in range(draw(st.integers(1, 4))):
        board = draw(st.sampled_from([H100, A100, "NVIDIA H100 NVL"]))
        profiles = draw(st.lists(st.sampled_from(_PROFILES), max_size=4))
        found += [part(number, place, profile, board) for place, profile in enumerate(profiles)]
        if not profiles:
            found.append(whole(number, board))
    return found


_LABELS = st.sampled_from(
    ["h100", "nvidia", "1g.10gb", "80gb", "nvidia_h100_80gb_hbm3", "a100-sxm4", "3g.40gb", "quadro"]
)


@settings(max_examples=60, deadline=None)
@given(_machines(), st.randoms(use_true_random=False))
def test_full_names_are_always_right(machine: list[Device], shuffle: random.Random) -> None:
    entries = gres_of(machine)
    shuffle.shuffle(machine)
    verdict = check(entries, machine)
    assert verdict.refusals == ()
    assert verdict.outcome is not None
    assert all(one.label == one.device.type for one in verdict.outcome.bindings)
    assert len(verdict.outcome.bindings) == len(machine)


@settings(max_examples=60, deadline=None)
@given(_machines(), st.dictionaries(_LABELS, st.integers(1, 5), max_size=4))
def test_every_device_is_offered_once_or_ignored(machine: list[Device], wanted: dict[str, int]) -> None:
    outcome = bind([GresEntry("gpu", label, count) for label, count in wanted.items()], machine)
    seen = [one.device for one in outcome.bindings] + list(outcome.ignored)
    assert sorted(one.file for one in seen) == sorted(one.file for one in machine)
    for label, count in wanted.items():
        got = sum(one.label == label for one in outcome.bindings)
        assert got + dict(outcome.missing).get(label, 0) == count
    assert all((one.label or "").lower() in one.device.type.lower() for one in outcome.bindings)


@settings(max_examples=60, deadline=None)
@given(_machines(), st.dictionaries(_LABELS, st.integers(1, 5), min_size=1, max_size=4))
def test_what_is_accepted_binds_every_device(machine: list[Device], wanted: dict[str, int]) -> None:
    verdict = check([GresEntry("gpu", label, count) for label, count in wanted.items()], machine)
    if not verdict.refusals:
        assert verdict.outcome is not None
        assert not verdict.outcome.ignored
        assert not verdict.outcome.missing
