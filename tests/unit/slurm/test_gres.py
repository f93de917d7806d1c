# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import (
    GresEntry,
    GresSyntaxError,
    accounting_tres,
    format_gres,
    gpu_entries,
    gres_conf,
    gres_of,
    gres_types,
    parse_gres,
    type_id,
)
from unit.slurm.machines import A100, part, whole


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", []),
        ("gpu", [GresEntry("gpu", None, 1)]),
        ("gpu:4", [GresEntry("gpu", None, 4)]),
        ("gpu:a100", [GresEntry("gpu", "a100", 1)]),
        ("gpu:a100:2", [GresEntry("gpu", "a100", 2)]),
        ("gpu:1g.5gb+me:1", [GresEntry("gpu", "1g.5gb+me", 1)]),
        ("gpu:a:1,gpu:b:2,gpu:a:3", [GresEntry("gpu", "a", 4), GresEntry("gpu", "b", 2)]),
        ("gpu:a:2(S:0-1)", [GresEntry("gpu", "a", 2)]),
        ("bandwidth:lustre:no_consume:4G", [GresEntry("bandwidth", "lustre", 4 * 1024**3, True)]),
        ("tmp:2kb", [GresEntry("tmp", None, 2000)]),
        ("tmp:1MiB", [GresEntry("tmp", None, 1024**2)]),
    ],
)
def test_parse(text: str, entries: list[GresEntry]) -> None:
    assert parse_gres(text) == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu:1g.5gb", "write the count after the type: gpu:1g.5gb:1"),
        ("gpu:a b:1", "expected name"),
        ("gpu::1", "expected name"),
        ("gpu:a:1,", "expected name"),
        ("gpu:a:b:1", "at most one type"),
        ("gpu:no_consume:no_consume:1", "at most one type"),
        ("gpu:1,gpu:2", "there twice"),
        ("gpu:a:2x", "write the count after the type: gpu:a:2x:1"),
    ],
)
def test_refused_syntax(text: str, message: str) -> None:
    with pytest.raises(GresSyntaxError, match=message):
        parse_gres(text)


def test_format_is_what_parse_reads() -> None:
    entries = [GresEntry("gpu", "a", 4), GresEntry("nic", None, 1), GresEntry("net", "ib", 2, True)]
    assert format_gres(entries) == "gpu:a:4,nic:1,net:ib:no_consume:2"
    assert parse_gres(format_gres(entries)) == entries


def test_every_device_under_its_full_type_sorted() -> None:
    found = [whole(1), part(0, 0, "1g.10gb"), part(0, 1, "1g.10gb"), whole(2, A100)]
    assert format_gres(gres_of(found)) == (
        "gpu:nvidia_a100-sxm4-40gb:1,gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_h100_80gb_hbm3_1g.10gb:2"
    )
    assert gres_of([]) == []


def test_names_for_slurm_conf() -> None:
    entries = parse_gres("shard:8,gpu:b:1,gpu:a:1")
    assert gres_types(entries) == ["gpu", "shard"]
    assert accounting_tres(entries) == ["gres/gpu", "gres/gpu:a", "gres/gpu:b", "gres/shard"]


def test_entries_that_ask_for_gpus() -> None:
    assert gpu_entries(parse_gres("nic:1,gpu:a:1,gpu:b:0")) == [GresEntry("gpu", "a", 1)]


def test_types_of_one_number_inside_slurm() -> None:
    assert type_id("2g.48gb") == type_id("3g.47gb")
    assert type_id("2g.48gb") != type_id("2g.47gb")


def test_gres_conf_lists_devices_by_file() -> None:
    text = gres_conf([whole(10), whole(2)], gpus_present=True)
    lines = text.splitlines()
    assert "AutoDetect=nvml" in lines
    assert lines[-2:] == [
        "#   nvidia_h100_80gb_hbm3 /dev/nvidia2 GPU-2",
        "#   nvidia_h100_80gb_hbm3 /dev/nvidia10 GPU-10",
    ]
    assert text.endswith("\n")


def test_gres_conf_changes_with_a_uuid() -> None:
    one = part(0, 0, "1g.10gb")
    other = type(one)(one.kind, one.type, one.files, "MIG-new", one.pci_address)
    assert gres_conf([one], gpus_present=True) != gres_conf([other], gpus_present=True)


def test_gres_conf_of_gpus_that_cannot_be_read_still_detects() -> None:
    assert gres_conf([], gpus_present=True).splitlines()[1:] == ["AutoDetect=nvml"]


def test_gres_conf_without_gpu_detects_nothing() -> None:
    text = gres_conf([], gpus_present=False)
    assert "AutoDetect" not in text
    assert "No GPU was found" in text
