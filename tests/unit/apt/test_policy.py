# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions of packages, from what apt-cache printed."""

from __future__ import annotations

from ansible_collections.hpc.compute.plugins.module_utils.apt.policy import (
    Choice,
    Policy,
    choose,
    matches,
    read_policy,
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
