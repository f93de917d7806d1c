# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""apptainer.conf: what is refused, and what is written."""

from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.containers.apptainer_conf import (
    known,
    parse_version,
    problems,
    render,
)


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.4.2", (1, 4, 2)), ("1.4.5-2", (1, 4, 5)), ("1:1.5.4~rc1", (1, 5, 4)), ("1.10.0+x", (1, 10, 0))],
)
def test_versions(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "1.5", "latest", "v1.5.4"])
def test_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="expected a version of Apptainer"):
        parse_version(text)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("allow setuid", [True, False, "yes", "no"], ["on", 1, 0, None, "Yes", 1.0]),
        ("max loop devices", [0, 64, "128"], [-1, "-1", "many", True, 1.5, None]),
        ("mount dev", ["minimal", True, False, "no"], ["some", 1, None]),
        ("enable overlay", ["try", "driver", True], ["maybe"]),
        ("bind path", [[], ["/opt", "/a:/b:ro"]], ["/opt", [1], ["a\nb"], ["a,b"], {"a": 1}]),
        ("mksquashfs mem", ["1G", ""], [1, "a\nallow setuid = yes"]),
        ("cni plugin path", ["/usr/lib/cni", ""], ["lib/cni", 5]),
    ],
)
def test_values(name: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert problems({name: value}, (1, 5, 4)) == [], value
    for value in bad:
        (said,) = problems({name: value}, (1, 5, 4))
        assert said.startswith(f"apptainer.conf: expected for {name!r} "), value


def test_unknown_directives_are_refused_with_a_hint() -> None:
    (said,) = problems({"allow suid": False}, (1, 4, 2))
    assert "Apptainer 1.4.2 knows, found 'allow suid'; did you mean 'allow setuid'?" in said
    (said,) = problems({"xyz": 1}, None)
    assert "every version of Apptainer knows, found 'xyz'; leave it out" in said


def test_a_directive_of_a_later_version() -> None:
    (said,) = problems({"sync writable extfs": True}, (1, 5, 4))
    assert "there is one from 1.6.0 on" in said
    assert problems({"sync writable extfs": True}, (1, 6, 0)) == []
    assert "sync writable extfs" not in known(None)


def test_an_old_version_is_refused_as_a_whole() -> None:
    (said,) = problems({"allow setuid": True}, (1, 3, 6))
    assert "expected Apptainer 1.4.0 or newer" in said
    assert "found 1.3.6" in said


def test_all_problems_are_told_at_once() -> None:
    assert len(problems({"a": 1, "mount dev": "x", "max loop devices": -1}, None)) == 3


def test_rendering() -> None:
    text = render(
        {
            "limit container owners": ["root", "site"],
            "bind path": ["/etc/localtime", "/opt:/opt:ro"],
            "allow setuid": False,
            "mount dev": True,
            "max loop devices": 8,
        }
    )
    assert text == (
        "allow setuid = no\nmax loop devices = 8\nmount dev = yes\n"
        "bind path = /etc/localtime\nbind path = /opt:/opt:ro\n"
        "limit container owners = root, site\n"
    )
    assert render({"bind path": []}) == "bind path = \n"
    assert render({}) == ""
    with pytest.raises(TypeError, match="bind path"):
        render({"bind path": "/opt"})
