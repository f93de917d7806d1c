# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Xids in the kernel log: found in every form the driver writes, and judged by their numbers."""

from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health.kernel_log import Xid, judge, parse
from ansible_collections.hpc.compute.plugins.module_utils.health.model import fault, note
from ansible_collections.hpc.compute.plugins.module_utils.health.xids import Action, action

LINES = [
    "1700000000.500000 n1 kernel: NVRM: Xid (PCI:0000:3B:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off",
    "[  123.4] NVRM: Xid (0000:af:00): 31, Ch 00000010, engmask 00000101, intr 10000000",
    "NVRM: Xid (PCI:0001:00:00.0): 13",
    "NVRM: Xid (PCI:nonsense:1): 48, text\n",
    "NVRM: GPU at PCI:0000:3b:00: GPU-1234",
    "audit: Xid (x): y",
    "",
]


def test_every_form_is_found() -> None:
    assert [(one.address, one.number, one.time) for one in parse(LINES[:3])] == [
        ("0000:3b:00.0", 79, 1700000000.5),
        ("0000:af:00.0", 31, 0.0),
        ("0001:00:00.0", 13, 0.0),
    ]
    assert parse(LINES)[0].text == "pid='<unknown>', name=<unknown>, GPU has fallen off"
    assert parse(LINES)[2].text == ""
    assert len(parse(LINES)) == 3  # what is no address is no Xid line of the driver


@pytest.mark.parametrize(
    ("xid", "text", "what"),
    [
        (79, "", "drain"),
        (48, "", "drain"),
        (109, "", "drain"),
        (13, "", "warn"),
        (63, "", "warn"),
        (94, "", "warn"),
        (155, "", "warn"),
        (9999, "", "warn"),
        (106, "", "ignore"),
        (154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", "drain"),
        (154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "drain"),
        (154, "GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)", "warn"),
        (154, "GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)", "warn"),
        (154, "in words of a later driver", "drain"),
    ],
)
def test_what_an_xid_means(xid: int, text: str, what: Action) -> None:
    assert action(xid, text, {}) == what


def test_the_site_has_the_last_word() -> None:
    assert action(79, "", {79: "ignore"}) == "ignore"
    assert action(13, "", {13: "drain"}) == "drain"
    assert action(154, "to 0x0 (None)", {154: "drain"}) == "drain"


def test_a_finding_for_each_kind_on_each_gpu() -> None:
    xids = [Xid("a", 79, "off the bus"), Xid("b", 79, ""), Xid("a", 79, "again"), Xid("a", 13, "x"), Xid("a", 106, "")]
    assert judge(xids, {}) == [
        fault("a", "Xid 79 (2 times), again"),
        fault("b", "Xid 79"),
        note("a", "Xid 13, x"),
    ]
    assert judge(xids, {79: "ignore", 13: "ignore"}) == []


def test_a_recovery_that_is_over_does_not_hide_the_one_before() -> None:
    changes = [Xid("a", 154, "from 0x0 (None) to 0x2 (Node Reboot Required)"), Xid("a", 154, "from 0x2 to 0x0 (None)")]
    assert [one.level for one in judge(changes, {})] == ["fault", "note"]


def test_what_is_dealt_with_is_not_told_again() -> None:
    xids = [Xid("a", 79, "", 100.0), Xid("b", 79, "", 300.0), Xid("c", 79, "", 0.0)]
    assert [one.subject for one in judge(xids, {}, since=200.0)] == ["b", "c"]
