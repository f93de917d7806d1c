# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files of a role: looked at before the first is written, each whole or as it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.files.text import (
    Change,
    FileError,
    TextFile,
    changes,
    try_out,
    write,
)
from ansible_collections.hpc.compute.plugins.modules import text_files


def test_written_with_directories_and_mode(tmp_path: Path) -> None:
    wanted = TextFile(tmp_path / "a/b/script", "#!/bin/sh\n", 0o755)
    (change,) = changes([wanted])
    assert change == Change(wanted, None)
    write(change)
    assert (wanted.path.read_text(), wanted.path.stat().st_mode & 0o7777) == ("#!/bin/sh\n", 0o755)
    assert changes([wanted]) == []
    assert [path.name for path in wanted.path.parent.iterdir()] == ["script"]


def test_directories_are_for_all_to_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for change in changes([TextFile(tmp_path / "a/b/file", "x", 0o755)]):
            write(change)
    finally:
        os.umask(before)
    found = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/file")]
    assert found == [0o755] * 3


def test_text_and_mode_differ(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o600)
    (change,) = changes([TextFile(path, "new")])
    assert (change.before, change.mode_before) == ("old", 0o600)
    path.write_text("new")
    (change,) = changes([TextFile(path, "new")])
    write(change)
    assert path.stat().st_mode & 0o7777 == 0o644


def test_removed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert changes([TextFile(path, None)]) == []
    path.write_text("old")
    (change,) = changes([TextFile(path, None)])
    write(change)
    assert not path.exists()


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("folder", "link"):
        with pytest.raises(FileError, match="to be a file, found something else"):
            changes([TextFile(tmp_path / name, "x")])


def test_what_can_not_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    (change,) = changes([TextFile(path, "new")])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device"):
        write(change)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    monkeypatch.setattr(
        Path, "read_text", lambda self, **_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(FileError, match="Permission denied"):
        changes([TextFile(path, "new")])


def test_a_command_reads_it_first(tmp_path: Path) -> None:
    wanted = Change(TextFile(tmp_path / "x", "good\n"), None)
    seen: list[str] = []

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        seen.extend([words[0], words[1], Path(words[1]).read_text()])
        return 0, "", ""

    try_out(wanted, "check %s", run)
    assert (seen[0], seen[2]) == ("check", "good\n")
    assert not Path(seen[1]).exists()
    try_out(Change(TextFile(tmp_path / "x", None), "old"), "check %s", _never)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((3, "", "first\nlast\n"), "takes, it failed with exit code 3: last. No file was written"),
        ((1, "said\n", " \n"), "exit code 1: said"),
        ((1, "", ""), "exit code 1: no message"),
    ],
)
def test_a_command_refuses(tmp_path: Path, answer: tuple[int, str, str], part: str) -> None:
    with pytest.raises(FileError, match=part):
        try_out(Change(TextFile(tmp_path / "x", "bad\n"), None), "check %s", lambda words: answer)


def _never(words: Sequence[str]) -> tuple[int, str, str]:
    raise AssertionError(words)


class Exited(Exception):  # noqa: N818  # it is how a module ends, not an error
    pass


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    result: dict[str, Any] = {}

    def end(self: AnsibleModule, **values: Any) -> None:
        result.update(values)
        raise Exited

    monkeypatch.setattr(AnsibleModule, "exit_json", end)
    monkeypatch.setattr(AnsibleModule, "fail_json", end)
    return result


def call(ended: dict[str, Any], files: list[dict[str, str]], check: bool = False) -> dict[str, Any]:
    ended.clear()
    with pytest.raises(Exited), patch_module_args({"files": files, "_ansible_check_mode": check}):
        text_files.main()
    return dict(ended)


def test_module(ended: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x"
    one = {"path": str(path), "content": "a\n", "mode": "0600"}
    assert call(ended, [one], check=True)["changed_files"] == [str(path)]
    assert not path.exists()
    told = call(ended, [one])
    assert (told["changed"], told["diff"][0]["after"]) == (True, "a\n")
    assert call(ended, [one])["changed"] is False
    told = call(ended, [{**one, "mode": "0644"}])
    assert told["diff"][0]["before_header"] == f"{path} (mode 0600)"
    assert call(ended, [{"path": str(path), "state": "absent"}])["changed"] is True


def test_module_writes_nothing_that_one_command_refuses(ended: dict[str, Any], tmp_path: Path) -> None:
    first = {"path": str(tmp_path / "first"), "content": "a\n", "validate": "grep -q a %s"}
    second = {"path": str(tmp_path / "second"), "content": "b\n", "validate": "grep -q a %s"}
    told = call(ended, [first, second])
    assert f"expected a text for {tmp_path}/second that 'grep -q a %s' takes" in told["msg"]
    assert list(tmp_path.iterdir()) == []
    assert call(ended, [first, second], check=True)["changed"] is True
    assert call(ended, [first, {**second, "validate": "grep -q b %s"}])["changed"] is True


def test_module_refuses(ended: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    assert "expected a content" in call(ended, [{"path": path}])["msg"]
    assert "and none for one absent" in call(ended, [{"path": path, "content": "", "state": "absent"}])["msg"]
    assert "octal digits" in call(ended, [{"path": path, "content": "", "mode": "u=rw"}])["msg"]
    assert "something else" in call(ended, [{"path": str(tmp_path), "content": ""}])["msg"]
