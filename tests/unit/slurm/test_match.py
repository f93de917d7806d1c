# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import parse_gres
from ansible_collections.hpc.compute.plugins.module_utils.slurm.match import Refusal, check, meaning
from unit.slurm.machines import A100, part, whole

_MIXED = [whole(0), part(1, 0, "3g.40gb"), part(1, 1, "1g.10gb")]
_SEVEN = [part(0, place, "1g.5gb", A100) for place in range(7)]
_MEDIA = [part(0, 0, "1g.5gb", A100), part(0, 1, "1g.5gb+me", A100)]
_H100 = "nvidia_h100_80gb_hbm3"


def _refusals(gres: str, devices: list[Device], *, allow_unlisted: bool = False) -> dict[str, Refusal]:
    return {one.code: one for one in check(parse_gres(gres), devices, allow_unlisted=allow_unlisted).refusals}


@pytest.mark.parametrize(
    ("gres", "devices"),
    [
        ("gpu:h100:1,gpu:3g.40gb:1,gpu:1g.10gb:1", _MIXED),
        ("gpu:h100_80gb_hbm3:1,gpu:h100_80gb_hbm3_3g.40gb:1,gpu:h100_80gb_hbm3_1g.10gb:1", _MIXED),
        (f"gpu:{_H100}:1,gpu:{_H100}_3g.40gb:1,gpu:{_H100}_1g.10gb:1", _MIXED),
        ("gpu:3", _MIXED),
        ("gpu:1g.5gb:7", _SEVEN),
        ("gpu:a100:7", _SEVEN),
        ("gpu:1g.5gb:1,gpu:1g.5gb+me:1", _MEDIA),
        ("gpu:H100:2", [whole(0), whole(1)]),
        ("", []),
    ],
)
def test_accepted(gres: str, devices: list[Device]) -> None:
    verdict = check(parse_gres(gres), devices)
    assert verdict.refusals == ()
    assert verdict.outcome is not None
    assert len(verdict.outcome.bindings) == len(devices)


def test_the_hyphen_of_a_mig_type() -> None:
    refused = _refusals("gpu:a100-1g.5gb:7", _SEVEN)
    assert set(refused) == {"hyphen_type"}
    assert refused["hyphen_type"].message.endswith("write nvidia_a100_1g.5gb")


def test_the_whole_boards_name_with_a_profile() -> None:
    refused = _refusals("gpu:nvidia_a100-sxm4-40gb_1g.5gb:7", _SEVEN)
    assert "write nvidia_a100_1g.5gb" in refused["unknown_type"].message


def test_the_underscore_where_a_boards_name_has_a_hyphen() -> None:
    refused = _refusals("gpu:nvidia_a100_sxm4_40gb:1", [whole(0, A100)])
    assert refused["unknown_type"].message.endswith("write nvidia_a100-sxm4-40gb")


def test_a_misspelt_type() -> None:
    assert _refusals(f"gpu:{_H100}x:1", [whole(0)])["unknown_type"].message.endswith(f"write {_H100}")


def test_a_type_that_is_like_nothing_here() -> None:
    message = _refusals("gpu:quadro:1", _MIXED)["unknown_type"].message
    assert message.endswith(f"this machine has gpu:{_H100}:1, gpu:{_H100}_1g.10gb:1, gpu:{_H100}_3g.40gb:1")


def test_a_type_on_a_machine_without_usable_gpu() -> None:
    assert _refusals("gpu:h100:1", [])["unknown_type"].message.endswith("no GPU that Slurm could use")


def test_a_profile_that_only_the_media_slice_contains() -> None:
    refused = _refusals("gpu:1g.5gb:1", [_MEDIA[1]])
    assert "Slurm would give it nvidia_a100_1g.5gb+me (" in refused["unknown_type"].message
    assert "write nvidia_a100_1g.5gb+me" in refused["unknown_type"].message


def test_a_whole_gpus_name_captured_by_a_slice() -> None:
    refused = _refusals("gpu:h100:1,gpu:3g.40gb:1", _MIXED)
    message = refused["wrong_device"].message
    assert f"gpu:h100:1 means {_H100} (/dev/nvidia0)" in message
    assert f"would give it {_H100}_1g.10gb (/dev/nvidia1," in message
    assert f"Write the full type name, gpu:{_H100}:1" in message
    assert set(refused) == {"wrong_device"}


def test_a_wrong_device_is_refused_even_where_unlisted_ones_are_allowed() -> None:
    assert set(_refusals("gpu:h100:1,gpu:3g.40gb:1", _MIXED, allow_unlisted=True)) == {"wrong_device"}


def test_the_media_slice_swallowed() -> None:
    message = _refusals("gpu:a100_1g.5gb:1", _MEDIA)["wrong_device"].message
    assert "means nvidia_a100_1g.5gb (" in message
    assert "would give it nvidia_a100_1g.5gb+me (" in message


def test_too_many() -> None:
    message = _refusals("gpu:h100:3", [whole(0), whole(1)])["too_many"].message
    assert "this machine has 2)" in message
    assert "INVAL" in message
    assert "(2 < 3)" in message


def test_too_many_together() -> None:
    message = _refusals(f"gpu:h100:2,gpu:{_H100}:1", [whole(0), whole(1)])["too_many"].message
    assert f"wanted by gpu:{_H100}:1 too" in message


def test_too_many_untyped() -> None:
    assert "this machine has 1 devices" in _refusals("gpu:2", [whole(0)])["too_many"].message


def test_too_few_names_the_devices_and_the_whole_list() -> None:
    message = _refusals("gpu:h100:1", [whole(0), whole(1)])["too_few"].message
    assert f"no entry is left for {_H100} (/dev/nvidia1)" in message
    assert message.endswith(f"Gres=gpu:{_H100}:2")
    assert _refusals("gpu:1", [whole(0), whole(1)])["too_few"].message.endswith("Gres=gpu:2")


def test_unlisted_devices_can_be_allowed() -> None:
    assert _refusals("gpu:h100:1", [whole(0), whole(1)], allow_unlisted=True) == {}


def test_mixed_types() -> None:
    refused = check(parse_gres("gpu:h100:1,gpu:1"), [whole(0), whole(1)])
    assert refused.outcome is None
    assert [one.code for one in refused.refusals] == ["mixed_types"]
    assert "gpu:1 has no type" in refused.refusals[0].message


def test_types_of_one_number() -> None:
    refused = check(parse_gres("gpu:3g.47gb:1,gpu:2g.48gb:1"), [])
    assert refused.outcome is None
    assert "3g.47gb and 2g.48gb have the same number" in refused.refusals[0].message


def test_a_name_for_slices_of_several_kinds() -> None:
    cut = [part(0, 0, "4g.20gb", A100), part(0, 1, "3g.20gb", A100)]
    message = _refusals("gpu:a100:2", cut)["ambiguous_type"].message
    assert "nvidia_a100_3g.20gb and nvidia_a100_4g.20gb" in message


def test_a_piece_of_a_profile() -> None:
    assert "ambiguous_type" in _refusals("gpu:1g:2", _MEDIA)


def test_one_name_for_two_whole_boards_is_meant_so() -> None:
    assert _refusals("gpu:h100:2", [whole(0), whole(1, "NVIDIA H100 NVL")]) == {}


def test_a_similar_type_by_spaced_inside() -> None:
    refused = _refusals("gpu:100-80gb:1", [whole(0)])
    assert refused["unknown_type"].message.endswith(f"write {_H100}")


def test_meaning_prefers_whole_gpus() -> None:
    assert meaning("h100", _MIXED) == [whole(0)]
    assert meaning("hbm3_1g.10gb", _MIXED) == [_MIXED[2]]
    assert meaning("quadro", _MIXED) == []


def test_a_full_type_does_not_mean_a_longer_one() -> None:
    devices = [whole(1, "NVIDIA H200"), whole(0, "NVIDIA H200 NVL")]
    assert meaning("nvidia_h200", devices) == devices[:1]
    assert "means nvidia_h200 (" in _refusals("gpu:nvidia_h200:1", devices)["wrong_device"].message
