# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions of packages, from what apt-cache printed."""

from __future__ import annotations

from itertools import pairwise

from ansible_collections.hpc.compute.plugins.module_utils.apt.policy import (
    Choice,
    Policy,
    choose,
    matches,
    read_policy,
    sort_key,
    wrong_versions,
)

RECORDED = """\
slurmd:
  Installed: 24.11.5-4
  Candidate: 24.11.5-4+deb13u1
  Version table:
     24.11.5-4+deb13u1 500
        500 http://security.example.org trixie-security/main amd64 Packages
        990 http://deb.example.org trixie/main amd64 Packages
 *** 24.11.5-4 100
        100 /var/lib/dpkg/status
     23.11.4-1 -10 (phased 10%)
        -10 file:/srv ./ Packages
munge:
  Installed: (none)
  Candidate: 0.5.16-1
  Version table:
     0.5.16-1 500
        500 http://deb.example.org trixie/main amd64 Packages
nothing:
  Installed: (none)
  Candidate: (none)
  Version table:
"""


def test_what_apt_can_get() -> None:
    known = read_policy(RECORDED)
    assert list(known) == ["slurmd", "munge", "nothing"]
    assert known["slurmd"] == Policy(
        "24.11.5-4",
        "24.11.5-4+deb13u1",
        {
            "24.11.5-4+deb13u1": [
                "http://security.example.org trixie-security/main amd64 Packages",
                "http://deb.example.org trixie/main amd64 Packages",
            ],
            "23.11.4-1": ["file:/srv ./ Packages"],
        },
    )
    assert known["nothing"] == Policy(None, None, {})


#: In dpkg's order, as "dpkg --compare-versions" has them.
ORDERED = [
    *(
        "0",
        "1.2.3~~1",
        "4.8-1",
        "4.8.1",
        "4.8.2~rc1-1",
        "4.8.2",
        "4.8.2-1~deb13u1",
        "4.8.2-1",
        "4.8.2-1+b1",
        "4.8.2-1.1",
    ),
    *("4.8.2-10", "4.8.2a-1", "4.8.2+ds-1", "4.8.2.0-1", "4.8.10-1", "4.9~", "4.9", "4.10.0-1", "1:4.6.1-1"),
]


def test_the_order_of_versions() -> None:
    keys = [sort_key(version) for version in ORDERED]
    assert all(one < following for one, following in pairwise(keys))
    assert sort_key("4.8.2") == sort_key("4.8.2-0")


def test_at_least() -> None:
    assert matches("4.8.2-1", ">=4.8.2")
    assert matches("4.10.0-1", ">= 4.8.2")
    assert not matches("4.8.1-1", ">=4.8.2")
    assert wrong_versions({"slurmd": "24.11.4-1"}, {"slurmd": ">=24.11.5"}) == ["slurmd"]
    assert choose(read_policy(RECORDED), ["slurmd"], {"slurmd": ">=24"}).install == ["slurmd=24.11.5-4+deb13u1"]
    assert "expected version >=25" in choose(read_policy(RECORDED), ["slurmd"], {"slurmd": ">=25"}).reasons[0]


def test_the_choice() -> None:
    known = read_policy(RECORDED)
    assert choose(known, ["munge", "slurmd"], {"slurmd": "24.*"}) == Choice(
        ["munge", "slurmd=24.11.5-4+deb13u1"], [], []
    )
    assert choose(known, ["slurmd"], {"slurmd": "23.11.4-1", "munge": "9"}).install == ["slurmd=23.11.4-1"]
    assert choose(
        known, ["slurmd", "nothing", "unknown"], {"slurmd": "25.*", "nothing": "1", "unknown": "1"}
    ) == Choice(
        [],
        ["slurmd", "nothing", "unknown"],
        [
            "slurmd: expected version 25.*, found 24.11.5-4+deb13u1 from http://security.example.org trixie-security/"
            "main amd64 Packages, "
            "http://deb.example.org trixie/main amd64 Packages; 23.11.4-1 from file:/srv ./ Packages",
            "nothing: expected version 1, found none at all",
            "unknown: expected version 1, found none at all",
        ],
    )


def test_which_are_wrong() -> None:
    assert matches("1.0+b1", "1.0+b1")
    assert matches("1.0[1]", "1.0[1]"), "an exact version is no pattern"
    assert not matches("24.11.5-4+deb13u1", "24.11.5-4")
    installed = {"a": "1.0", "b": "2.0"}
    assert wrong_versions(installed, {"a": "1.*", "b": "1.*", "c": "1"}) == ["b"]
