# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layouts as text: lines in errors, and what YAML makes of values without being asked."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig import layout_file
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import LayoutError
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_file import load, load_layout, read_layout

GOOD = """\
version: v1
mig-configs:
  # two kinds
  mixed:
    - device-filter: 0x233010DE
      devices: [0, 0000:17:00.0, "*A100*"]
      mig-enabled: Yes
      mig-devices:
        1g.10gb: 2
        "3g.40gb": 1
    - devices: all
      device-filter: ["0x20B710DE"]
      mig-enabled: off
"""


def test_a_text_is_read_with_its_lines_and_without_yamls_numbers() -> None:
    data, lines = load(GOOD)
    entry = data["mig-configs"]["mixed"][0]
    # YAML 1.1 reads these as 1020.0 and 590352606.
    assert entry["devices"] == [0, "0000:17:00.0", "*A100*"]
    assert entry["device-filter"] == "0x233010DE"
    assert entry["mig-enabled"] is True
    assert lines["mig-configs", "mixed"] == 4
    assert lines["mig-configs", "mixed", 0, "mig-devices", "3g.40gb"] == 10
    first, second = load_layout(GOOD).config()
    assert (first.line, second.line) == (5, 11)
    assert second.where() == "line 11, mig-configs.mixed[1]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", None),
        ("", None),
        ("null", None),
        ("true", True),
        ("OFF", False),
        ("'true'", "true"),
        ("7", 7),
        ("-7", -7),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("1.5", "1.5"),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        ("9" * 30, "9" * 30),
        ("[1, [a]]", [1, ["a"]]),
    ],
)
def test_single_values(text: str, value: Any) -> None:
    assert load(f"key: {text}")[0] == {"key": value}


def test_anchors_and_merges_are_followed_and_own_keys_win() -> None:
    data, lines = load(
        "base: &base\n  a: 1\n  b: 2\nmore: &more {b: 3, c: 4}\n"
        "one:\n  <<: *base\n  b: 5\ntwo:\n  <<: [*base, *more]\nlist: [*more]\n"
    )
    assert data["one"] == {"a": 1, "b": 5}
    assert data["two"] == {"a": 1, "b": 2, "c": 4}
    assert data["list"] == [{"b": 3, "c": 4}]
    assert lines["one", "b"] == 7
    assert lines["one",] == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "found an empty text"),
        ("# nothing\n", "found an empty text"),
        ("a: [1\n", "line 2: expected YAML, found a mistake"),
        ("a: 1\n--- \nb: 2\n", "line 2: expected YAML, found a mistake: but found another document"),
        ("a: \x00", "expected YAML, found a mistake: unacceptable character"),
        ("a: *b\n", "line 1: expected YAML, found a mistake: found undefined alias"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4, b.c: expected each key once, found it in line 3 too"),
        ("? [a]\n: 1\n", "line 1: expected a text as key, found a list or mapping"),
        ("a: !!python/object/apply:os.system [x]\n", "line 1, a: expected plain YAML, found the tag"),
        ("a: !!set {b}\n", "line 1, a: expected plain YAML, found the tag"),
        ("a: !!binary eA==\n", "line 1, a: expected plain YAML, found the tag"),
        ("a:\n  <<: 1\n", "line 2, a: expected a mapping to merge"),
        ("a: &a [*a]\n", "too deeply nested"),
        ("[" * 20 + "]" * 20, "too deeply nested"),
        ("[" * 5000, "nested hundreds of levels deep"),
        ("x" * (layout_file.MOST_BYTES + 1), "at most 1048576 characters"),
        ("a: &a [" + "1," * 400 + "]\nb: &b [" + "*a," * 400 + "]\n", "too many or too deeply nested"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        load(text)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("mig-enabled: off", "mig-enable: off", "line 13, mig-configs.mixed.1..mig-enable: expected only the keys"),
        ("1g.10gb: 2", "1g.10gb: -2", "line 9, mig-configs.mixed.0..mig-devices.1g.10gb: expected a count from 0"),
        ("1g.10gb: 2", "1g.10gb:", "line 9, .*: expected a whole number of instances, found nothing"),
        ("0x233010DE", "0x2330", "line 5, .*device-filter: expected '0x' and eight hex digits"),
        (
            '["0x20B710DE"]',
            '["0x233010DE"]',
            "line 11, mig-configs.mixed.1.: .* the one at line 5, mig-configs.mixed.0.",
        ),
        ('"*A100*"', '"A100"', "line 6, mig-configs.mixed.0..devices.2.: expected all, an index"),
        ("      devices: [0", "      device: [0", "line 6, mig-configs.mixed.0..device: expected only"),
    ],
)
def test_what_is_no_layout_is_refused_with_its_line(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(LayoutError, match=complaint):
        load_layout(GOOD.replace(old, new))


def test_files_are_read_and_their_errors_name_them(tmp_path: Path) -> None:
    path = tmp_path / "layout.yml"
    path.write_text(GOOD)
    assert len(read_layout(path).config("mixed")) == 2
    path.write_text(GOOD.replace("v1", "v9"))
    with pytest.raises(LayoutError, match=rf"line 1, version: expected 'v1'.* \(in {path}\)"):
        read_layout(path)
    path.write_bytes(b"version: \xff\n")
    with pytest.raises(LayoutError, match=rf"in UTF-8, found other bytes at 9 in {path}"):
        read_layout(path)
    with pytest.raises(LayoutError, match=f"readable layout file, found {tmp_path}: Is a directory"):
        read_layout(tmp_path)
    with pytest.raises(LayoutError, match="missing: No such file or directory"):
        read_layout(tmp_path / "missing")
    os.truncate(path, layout_file.MOST_BYTES + 1)
    with pytest.raises(LayoutError, match=rf"found 1048577 bytes: {path}$"):
        read_layout(path)


def test_planning_from_values_needs_no_yaml_and_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_yaml(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(LayoutError, match="install python3-yaml"):
        load(GOOD)
