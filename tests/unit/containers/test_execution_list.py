# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ecl.toml: what is refused, and what is written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.containers.execution_list import problems, render

_KEY = "B153347315587C3D7EB00CE08E696426347154B9"
_GROUP = {"tag": "site", "mode": "whitelist", "directory": "/srv/images", "fingerprints": [_KEY.lower()]}


def test_a_good_one() -> None:
    other = {**_GROUP, "tag": "other", "mode": "blacklist", "directory": "/srv/other"}
    assert problems([_GROUP, other]) == []
    read = tomllib.loads(render([_GROUP, other]))
    assert read["activated"] is True
    assert read["execgroup"][0] == {
        "tagname": "site",
        "mode": "whitelist",
        "dirpath": "/srv/images",
        "keyfp": [_KEY],
    }
    assert read["execgroup"][1]["mode"] == "blacklist"


def test_the_usual_mode() -> None:
    group = {key: value for key, value in _GROUP.items() if key != "mode"}
    assert problems([group]) == []
    assert tomllib.loads(render([group]))["execgroup"][0]["mode"] == "whitelist"


def test_none() -> None:
    assert problems([]) == []
    assert tomllib.loads(render([])) == {"activated": False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tag": 'a"b'}, "expected as tag"),
        ({"mode": "allow"}, "expected as mode"),
        ({"directory": "srv/images"}, "absolute path"),
        ({"directory": "/srv/images/"}, "without a slash"),
        ({"directory": '/srv/"x'}, "absolute path"),
        ({"fingerprints": []}, "at least one key"),
        ({"fingerprints": _KEY}, "at least one key"),
        ({"fingerprints": [_KEY[8:]]}, "40 hexadecimal digits"),
        ({"more": 1}, "expected the keys"),
    ],
)
def test_what_is_refused(change: dict[str, Any], said: str) -> None:
    found = problems([{**_GROUP, **change}])
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith("ecl.toml, group 1: ")


def test_no_list_and_no_mapping() -> None:
    assert "expected a list of groups" in problems("text")[0]
    assert "expected a mapping" in problems(["text"])[0]


def test_twice_the_same() -> None:
    found = problems([_GROUP, _GROUP])
    assert [text for text in found if "expected each tag once" in text]
    assert [text for text in found if "expected each directory once" in text]


def test_a_text_is_no_list_of_fingerprints() -> None:
    with pytest.raises(TypeError, match="fingerprints"):
        render([{**_GROUP, "fingerprints": _KEY}])
