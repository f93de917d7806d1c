# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout language: what is right is read as meant, what is wrong is refused with its place."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import (
    LayoutError,
    parse_entries,
    parse_layout,
    shown,
    where,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_names import (
    DeviceFilter,
    ProfileName,
    Selector,
    SelectorKind,
    device_filter,
    profile_name,
    selector,
)

UUID = "GPU-6f2b1c3d-0a1b-2c3d-4e5f-60718293a4b5"


def entry(**changes: Any) -> dict[str, Any]:
    """A right entry with changes; a value of ``...`` takes the key away."""
    data = {"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 7}}
    data |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in data.items() if value is not ...}


def layout(**configs: Any) -> dict[str, Any]:
    return {"version": "v1", "mig-configs": configs}


def test_a_layout_as_mig_parted_writes_it() -> None:
    data = layout(
        off=[{"devices": "all", "mig-enabled": False}],
        empty=[{"devices": "all", "mig-enabled": True, "mig-devices": {}}],
        mixed=[
            {
                "device-filter": "0x20B710DE",
                "devices": [0, 1],
                "mig-enabled": True,
                "mig-devices": {"1g.6gb": 4, "2g.12gb": 0},
            },
            {
                "device-filter": ["0x233010DE", "0x20B510DE:0x153310DE"],
                "devices": "all",
                "mig-enabled": False,
                "mig-devices": {},
            },
        ],
    )
    parsed = parse_layout(data)
    assert set(parsed.configs) == {"off", "empty", "mixed"}
    assert not parsed.config("off")[0].mig_enabled
    assert parsed.config("empty")[0].mig_enabled
    assert parsed.config("empty")[0].mig_devices == ()
    first, second = parsed.config("mixed")
    assert first.filters == (DeviceFilter("20b7", "10de"),)
    assert first.devices == (Selector(SelectorKind.INDEX, "0"), Selector(SelectorKind.INDEX, "1"))
    assert first.mig_devices == ((ProfileName("1g.6gb", 1, 6), 4),)
    assert second.devices is None
    assert second.filters == (DeviceFilter("2330", "10de"), DeviceFilter("20b5", "10de", "1533", "10de"))
    assert second.where() == "mig-configs.mixed[1]"


def test_devices_may_be_one_text() -> None:
    (only,) = parse_entries([entry(devices="*H100*")])
    assert only.devices == (Selector(SelectorKind.MODEL, "*h100*"),)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (0, Selector(SelectorKind.INDEX, "0")),
        ("0000:17:00.0", Selector(SelectorKind.PCI_ADDRESS, "0000:17:00.0")),
        ("00000000:3B:00.0", Selector(SelectorKind.PCI_ADDRESS, "0000:3b:00.0")),
        ("3b:00.0", Selector(SelectorKind.PCI_ADDRESS, "0000:3b:00.0")),
        ("00010000:3b:00.0", Selector(SelectorKind.PCI_ADDRESS, "10000:3b:00.0")),
        (UUID, Selector(SelectorKind.UUID, UUID.lower())),
        ("NVIDIA A100-SXM4-?0GB", Selector(SelectorKind.MODEL, "nvidia a100-sxm4-?0gb")),
        (-1, "from 0 on"),
        (10**40, "from 0 on"),
        (True, "something else"),
        (None, "something else"),
        (1020.0, "put PCI addresses in quotes"),
        ("GPU-6f2b1c3d", "whole UUID"),
        ("MIG-6f2b1c3d-0a1b-2c3d-4e5f-60718293a4b5", "whole UUID of a GPU"),
        ("all", "expected `all` alone"),
        ("ALL", "a glob has a wildcard"),
        ("0000:17:00.9", "a glob has a wildcard"),
        ("x" * 100, "x..."),
    ],
)
def test_names_of_gpus(item: Any, expected: Selector | str) -> None:
    found = selector(item)
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert expected in found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0x233010DE", DeviceFilter("2330", "10de")),
        ("0X233010de:0x16C110DE", DeviceFilter("2330", "10de", "16c1", "10de")),
        ("233010DE", "'0x' and eight hex digits"),
        ("0x2330", "'0x' and eight hex digits"),
        ("0x233010DE:16C110DE", "'0x' and eight hex digits"),
        ("0x10DE2330", "vendor id 10DE in the last four digits"),
        ("", "eight hex digits"),
    ],
)
def test_device_filters(text: str, expected: DeviceFilter | str) -> None:
    found = device_filter(text)
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert expected in found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1g.10gb", ProfileName("1g.10gb", 1, 10)),
        ("1g.10gb+me", ProfileName("1g.10gb+me", 1, 10, "+me")),
        ("1g.24gb-me", ProfileName("1g.24gb-me", 1, 24, "-me")),
        ("1g.24gb+me.all", ProfileName("1g.24gb+me.all", 1, 24, "+me.all")),
        ("1c.3g.40gb", ProfileName("1c.3g.40gb", 3, 40, "", 1)),
        ("3g", ProfileName("3g", 3)),
        ("half", ProfileName("half", "half")),
        ("whole", ProfileName("whole", "whole")),
        ("1g+me", ProfileName("1g+me", 1, None, "+me")),
        ("4c.3g.40gb", "at most 3 compute slices"),
        ("1G.10GB", "in lower case"),
        ("01g.10gb", "in lower case"),
        ("0g.10gb", "in lower case"),
        ("1g.10gb ", "in lower case"),
        ("1g.10gb+", "in lower case"),
        ("quarter", "an intent ('1g', 'half', 'whole')"),
        ("", "a profile name"),
    ],
)
def test_names_of_profiles(text: str, expected: ProfileName | str) -> None:
    found = profile_name(text)
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert expected in found
    else:
        assert found == expected


WRONG: list[tuple[Any, str]] = [
    (None, "expected a layout with `version` and `mig-configs`, found nothing"),
    ([], "found an empty list"),
    ({}, "expected the key `version`, which is missing"),
    ({"version": "v1"}, "expected the key `mig-configs`, which is missing"),
    ({"version": "v2", "mig-configs": {}}, "version: expected 'v1', the only version there is, found 'v2'"),
    ({"version": 1, "mig-configs": {}}, "version: expected 'v1', the only version there is, found 1"),
    (
        {"version": "v1", "mig-configs": {}, "more": 1},
        "more: expected only the keys version, mig-configs, found 'more'",
    ),
    ({"version": "v1", "mig-configs": {}, 7: 1}, "expected only the keys version, mig-configs, found 7"),
    (layout(), "mig-configs: expected configurations by name, at least one, found an empty mapping"),
    ({"version": "v1", "mig-configs": [1]}, "mig-configs: expected configurations by name, at least one, found a list"),
    ({"version": "v1", "mig-configs": {3: []}}, "mig-configs: expected a text as name of each configuration, found 3"),
    (layout(a=[]), "mig-configs.a: expected a list of entries, at least one, found an empty list"),
    (layout(a="all"), "mig-configs.a: expected a list of entries, at least one, found 'all'"),
    (layout(a={}), "mig-configs.a: expected a list of entries, at least one, found an empty mapping"),
    (layout(a=["x"]), "mig-configs.a[0]: expected an entry with `devices` and `mig-enabled`, found 'x'"),
    (layout(a=[entry(devices=...)]), "mig-configs.a[0]: expected the key `devices`, which is missing"),
    (layout(a=[entry(mig_enabled=...)]), "mig-configs.a[0]: expected the key `mig-enabled`, which is missing"),
    (layout(a=[entry(), entry(mig_device={})]), "mig-configs.a[1].mig-device: expected only the keys devices, "),
    (layout(a=[entry(mig_enabled="yes")]), "mig-configs.a[0].mig-enabled: expected true or false, found 'yes'"),
    (layout(a=[entry(mig_enabled=1)]), "expected true or false, found 1"),
    (layout(a=[entry(devices=7)]), "mig-configs.a[0].devices: expected all, or a list of .*, found 7: write \\[7\\]"),
    (layout(a=[entry(devices=True)]), "mig-configs.a[0].devices: expected all, or a list of .*, found true"),
    (layout(a=[entry(devices=[])]), "mig-configs.a[0].devices: expected all, or a list of .*, found an empty list"),
    (layout(a=[entry(devices=None)]), "mig-configs.a[0].devices: expected all, or a list of .*, found nothing"),
    (layout(a=[entry(devices=[0, [1]])]), "mig-configs.a[0].devices[1]: expected a device"),
    (layout(a=[entry(devices=[0, 1, 0])]), "mig-configs.a[0].devices[2]: expected each device once, found 0 again"),
    (layout(a=[entry(devices=["17:00.0", "0000:17:00.0"])]), "devices[1]: expected each device once"),
    (layout(a=[entry(device_filter="")]), "mig-configs.a[0].device-filter: expected '0x' and eight hex digits"),
    (layout(a=[entry(device_filter=[])]), "device-filter: expected a PCI id as text, .*, found an empty list"),
    (layout(a=[entry(device_filter=548737246)]), "device-filter: expected a PCI id as text, .*, found 548737246"),
    (layout(a=[entry(device_filter=["0x233010DE", 7])]), "device-filter[1]: expected a PCI id as text"),
    (layout(a=[entry(mig_devices=...)]), "mig-configs.a[0].mig-devices: expected profile names .*, found nothing"),
    (
        layout(a=[entry(mig_devices=["1g.10gb"])]),
        "mig-configs.a[0].mig-devices: expected profile names .*, found a list",
    ),
    (layout(a=[entry(mig_enabled=False)]), "mig-devices: expected no instances where `mig-enabled` is false"),
    (layout(a=[entry(mig_devices={"1g.10gb": 0})]), "expected a count above 0, found only zeros: write an empty"),
    (layout(a=[entry(mig_devices={"1g.10gb": -1})]), "mig-devices.1g.10gb: expected a count from 0 to 64"),
    (layout(a=[entry(mig_devices={"1g.10gb": 65})]), "mig-devices.1g.10gb: expected a count from 0 to 64"),
    (layout(a=[entry(mig_devices={"1g.10gb": 10**5000})]), "found a number of more than 30 digits"),
    (
        layout(a=[entry(mig_devices={"1g.10gb": True})]),
        "mig-devices.1g.10gb: expected a whole number of instances, found true",
    ),
    (layout(a=[entry(mig_devices={"1g.10gb": "7"})]), "expected a whole number of instances, found '7'"),
    (layout(a=[entry(mig_devices={"1g.10gb": 1.5})]), "expected a whole number of instances, found 1.5"),
    (layout(a=[entry(mig_devices={"1g.10": 1})]), "mig-devices.1g.10: expected a profile name"),
    (layout(a=[entry(mig_devices={10**5000: 1})]), "expected a profile name, found a number of more than 30 digits"),
    (
        layout(a=[entry(), entry()]),
        "mig-configs.a[1]: .* found all GPUs named by this entry and by the one at mig-configs.a[0]",
    ),
]


@pytest.mark.parametrize(("data", "complaint"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_refused_with_its_place(data: Any, complaint: str) -> None:
    # Only the brackets of list positions are meant literally.
    pattern = re.sub(r"(?<!\\)\[(\d+)\]", r"\\[\1\\]", complaint)
    with pytest.raises(LayoutError, match=pattern):
        parse_layout(data)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (entry(), entry(devices=[3]), "device 3"),
        (entry(devices=["3b:00.0", 1]), entry(), "device 0000:3b:00.0"),
        (entry(devices=[1, 2]), entry(devices=[0, 2]), "device 2"),
        (entry(device_filter="0x233010DE"), entry(), "GPUs of one kind"),
        (entry(device_filter=["0x20B710DE", "0x233010DE"]), entry(device_filter="0x233010DE", devices=[0]), "device 0"),
        (entry(devices=[0], device_filter="0x20B710DE"), entry(devices=[0], device_filter="0x233010DE"), None),
        (entry(device_filter="0x20B710DE"), entry(device_filter="0x233010DE"), None),
        (entry(devices=[0]), entry(devices=["17:00.0"]), None),
    ],
)
def test_entries_that_always_overlap_are_seen_without_a_machine(one: Any, other: Any, shared: str | None) -> None:
    if shared is None:
        assert len(parse_entries([one, other])) == 2
    else:
        with pytest.raises(LayoutError, match=re.escape(f"found {shared} named by this entry and by the one at [0]")):
            parse_entries([one, other])


def test_a_configuration_is_chosen_by_name_or_by_being_the_only_one() -> None:
    one = parse_layout(layout(a=[entry()]))
    assert one.config() == one.config("a")
    two = parse_layout(layout(b=[entry()], a=[entry()]))
    with pytest.raises(LayoutError, match="found none: choose one of a, b"):
        two.config()
    with pytest.raises(LayoutError, match=r"mig-configs: expected one of the configurations a, b, found 'c'"):
        two.config("c")


def test_places_and_values_in_messages_are_short() -> None:
    assert where((), None) == ""
    assert where(("a", 0, "b", 1)) == "a[0].b[1]"
    assert where((3,), 7) == "line 7, [3]"
    assert shown("x" * 200) == f"'{'x' * 76}..."
    assert shown(False) == "false"
    assert shown({"a": 1}) == "a mapping"
    assert str(LayoutError("broken")) == "broken"
