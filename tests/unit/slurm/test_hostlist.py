# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm import hostlist
from ansible_collections.hpc.compute.plugins.module_utils.slurm.hostlist import expand, fold, sort_key


@pytest.mark.parametrize(
    ("hosts", "folded"),
    [
        ("", ""),
        ("login", "login"),
        ("gpu01", "gpu01"),
        ("gpu01 gpu02 gpu03 gpu07", "gpu[01-03,07]"),
        ("n8 n9 n10 n11", "n[8-11]"),
        ("n08 n09 n10", "n[08-10]"),
        ("n98 n99 n100 n0100", "n[98-100,0100]"),
        ("n9 n010", "n[9,010]"),
        ("n099 n100 n101", "n[099-101]"),
        ("n3 n2 n1", "n[3,2,1]"),
        ("n1 n1", "n[1,1]"),
        ("a1 b1 a2", "a1,b1,a2"),
        ("r1-gpu5-ib r1-gpu6-ib r2-gpu5-ib", "r1-gpu[5-6]-ib,r2-gpu5-ib"),
        ("10.0.0.254 10.0.0.255 10.0.1.0 10.0.1.1", "10.0.0.[254-255],10.0.1.[0-1]"),
        ("x1234567890123456789", "x1234567890123456789"),
    ],
)
def test_fold_and_back(hosts: str, folded: str) -> None:
    assert fold(hosts.split()) == folded
    if hosts:
        assert expand(folded) == hosts.split()


def test_any_order_comes_back() -> None:
    choose = random.Random(1)  # noqa: S311  # reproducible, not secret
    for _ in range(200):
        hosts = [
            f"{choose.choice(('n', 'rack1-n', ''))}{choose.randrange(120):0{choose.choice((1, 2, 3))}d}"
            f"{choose.choice(('', '', '-ib'))}"
            for _ in range(choose.randrange(1, 40))
        ]
        hosts = sorted(hosts, key=sort_key) if choose.random() < 0.5 else hosts
        assert expand(fold(hosts)) == hosts


def test_brackets_anywhere() -> None:
    assert expand("r[1-2]n[01-02]-ib,login") == ["r1n01-ib", "r1n02-ib", "r2n01-ib", "r2n02-ib", "login"]


@pytest.mark.parametrize("text", ["", "a,,b", "n[1-", "n1]", "n[a-b]", "n[1-x]", "n[]", "n[4-1]"])
def test_what_is_no_list_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="host list"):
        expand(text)


def test_lists_without_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="host list"):
        expand("n[1-99999999999]")
    with pytest.raises(ValueError, match="hosts at most"):
        expand("r[1-150000]n[1-150000]")
    monkeypatch.setattr(hostlist, "MOST_HOSTS", 10)
    with pytest.raises(ValueError, match="10 hosts at most"):
        expand("n[1-6],m[1-6]")


def test_sorted_by_value() -> None:
    assert sorted(["n10", "n9", "m1", "n1x2", "n1"], key=sort_key) == ["m1", "n1", "n1x2", "n9", "n10"]
