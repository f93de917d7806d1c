# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.binding import Binding
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import CpuTopology
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import GresEntry, format_gres, parse_gres
from ansible_collections.hpc.compute.plugins.module_utils.slurm.sharing import Sharing, SharingError, share
from ansible_collections.hpc.compute.plugins.module_utils.slurm.static import (
    check_static,
    site_type,
    static_conf,
    static_entries,
    uuid_map,
)
from unit.slurm.machines import A100, part, whole

_TYPES = {"nvidia_a100*_1g.5gb": "a100-1g.5gb", "nvidia_a100_2g.10gb": "half", "*_2g.*": "other"}
_MACHINE = [whole(0), part(1, 0, "1g.5gb", A100), part(1, 1, "1g.5gb", A100), part(1, 2, "2g.10gb", A100)]


def _places(gres: str, devices: list[Device] = _MACHINE) -> list[tuple[str | None, str]]:
    outcome = check_static(parse_gres(gres), devices, _TYPES).outcome
    assert outcome is not None
    return [(one.label, one.device.file) for one in outcome.bindings]


def _codes(gres: str, allow_unlisted: bool = False) -> list[str]:
    verdict = check_static(parse_gres(gres), _MACHINE, _TYPES, allow_unlisted=allow_unlisted)
    return [refusal.code for refusal in verdict.refusals]


def test_names_by_exact_type_then_first_pattern() -> None:
    assert [site_type(one, _TYPES) for one in _MACHINE] == [_MACHINE[0].type, "a100-1g.5gb", "a100-1g.5gb", "half"]
    assert site_type(part(0, 0, "2g.20gb"), _TYPES) == "other"
    assert site_type(whole(0), {"NVIDIA_H100*": "big"}) == "big"
    assert format_gres(static_entries(_MACHINE, _TYPES)) == "gpu:a100-1g.5gb:2,gpu:half:1,gpu:nvidia_h100_80gb_hbm3:1"


def test_places_follow_gres_then_detection() -> None:
    one, two, half = (device.file for device in _MACHINE[1:])
    assert _places("gpu:half:1,gpu:nvidia_h100_80gb_hbm3:1,gpu:a100-1g.5gb:2") == [
        ("half", half),
        ("nvidia_h100_80gb_hbm3", "/dev/nvidia0"),
        ("a100-1g.5gb", one),
        ("a100-1g.5gb", two),
    ]
    assert [label for label, _ in _places("gpu:4")] == [None] * 4


def test_a_name_is_matched_whole() -> None:
    """Unlike under AutoDetect=nvml, where a part of the name is enough."""
    assert _codes("gpu:a100:1") == ["unknown_type"]


def test_refusals() -> None:
    assert _codes("gpu:half:1,gpu:1") == ["mixed_types"]
    assert _codes("gpu:half:2") == ["too_many"]
    assert _codes("gpu:5") == ["too_many"]
    assert _codes("gpu:half:1") == ["too_few"]
    assert _codes("gpu:half:1", allow_unlisted=True) == []
    assert _codes("gpu:2g.48gb:1,gpu:3g.47gb:1") == ["type_clash"]
    assert _codes("nic:1", allow_unlisted=True) == []
    (refusal,) = check_static(parse_gres("gpu:x:1"), [], {}).refusals
    assert "no GPU that Slurm could use" in refusal.message
    (refusal,) = check_static(parse_gres("gpu:half:1"), _MACHINE, _TYPES).refusals
    assert "a100-1g.5gb = nvidia_a100_1g.5gb (/dev/nvidia1," in refusal.message


def test_lines() -> None:
    bindings = [Binding("big", replace(whole(0), cores="0-1")), Binding("half", replace(_MACHINE[3], cores="4-5"))]
    text = static_conf(bindings, ["Name=shard ..."], CpuTopology({cpu: cpu for cpu in range(8)}, 4))
    assert text.splitlines()[2:] == [
        "AutoDetect=off",
        "Name=gpu Type=big File=/dev/nvidia0 Cores=0-3 Flags=nvidia_gpu_env",
        f"Name=gpu Type=half MultipleFiles={_MACHINE[3].file} Cores=4-7 Flags=nvidia_gpu_env",
        "Name=shard ...",
    ]
    untyped = static_conf([Binding(None, replace(whole(0), cores="0-7"))], topology=CpuTopology({0: 0}, 1))
    assert "\nName=gpu File=/dev/nvidia0 Flags=nvidia_gpu_env\n" in untyped, "all sockets are not worth saying"
    assert "Cores" not in static_conf(bindings)


def test_links_have_a_place_for_every_device() -> None:
    """In NVML's order the GPUs are 0, 1 (cut) and 2; Slurm has the slice first."""
    first = replace(whole(0), links=(-1, 0, 4))
    last = replace(whole(2), links=(4, 0, -1))
    alone = replace(whole(3), links=())
    cut = part(1, 0, "1g.10gb")
    text = static_conf([Binding("s", cut), Binding("g", first), Binding("g", last), Binding("g", alone)])
    assert "File=/dev/nvidia0 Links=0,-1,4,0 " in text
    assert "File=/dev/nvidia2 Links=0,4,-1,0 " in text
    assert text.count("Links=") == 2


def test_map() -> None:
    bindings = [Binding("s", part(1, 0, "1g.10gb")), Binding("g", whole(0))]
    assert uuid_map(bindings).splitlines()[1:] == [
        "0 MIG-1-0 /dev/nvidia1,/dev/nvidia-caps/nvidia-cap110,/dev/nvidia-caps/nvidia-cap111",
        "1 GPU-0 /dev/nvidia0",
    ]


_WHOLE = [Binding("big", whole(0)), Binding("big", whole(1)), Binding(None, whole(2, A100))]


def test_nothing_is_shared() -> None:
    assert share([Binding("s", part(1, 0, "1g.10gb"))], {"shard": {}, "mps": {}}) == Sharing()


def test_shared_by_type_or_pattern() -> None:
    sharing = share(_WHOLE, {"shard": {"big": 4}, "mps": {"nvidia_a100*": 100}})
    assert sharing.entries == (GresEntry("shard", None, 8), GresEntry("mps", None, 100))
    assert sharing.lines == (
        "Name=shard Count=4 File=/dev/nvidia0 Flags=nvidia_gpu_env",
        "Name=shard Count=4 File=/dev/nvidia1 Flags=nvidia_gpu_env",
        "Name=mps Count=100 File=/dev/nvidia2 Flags=nvidia_gpu_env",
    )


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"shard": {"big": 0}}, "expected a number from 1 on"),
        ({"shard": {"big": True}}, "expected a number from 1 on"),
        ({"shard": {"small": 2}}, "expected a type of this machine's GPUs"),
        ({"shard": {"*": 2}, "mps": {"big": 100}}, "is shared by shard and mps"),
    ],
)
def test_what_cannot_be_shared(wishes: dict[str, dict[str, int]], reason: str) -> None:
    with pytest.raises(SharingError, match=reason):
        share(_WHOLE, wishes)


def test_slices_are_not_shared() -> None:
    with pytest.raises(SharingError, match="gives such a job a number instead of the slice's UUID"):
        share([*_WHOLE, Binding("s", part(3, 0, "1g.10gb"))], {"shard": {"big": 2}})
