# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories that are tried before they are written, with an apt that answers as told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.apt import glue
from ansible_collections.hpc.compute.plugins.module_utils.apt.openpgp import read_keys
from ansible_collections.hpc.compute.plugins.module_utils.apt.repositories import (
    Change,
    Completed,
    Machine,
    pending,
    put_in_place,
    refresh,
    write,
)
from ansible_collections.hpc.compute.plugins.module_utils.apt.sources import RepositoryError, repository

from .test_openpgp import KEY4, block, packet

KEY = block(KEY4)
FINGERPRINT = read_keys(KEY).fingerprints[0]
OK = Completed(0, "Get:1 http://a trixie InRelease [1 kB]\n", "")
SITE: dict[str, Any] = {"name": "site", "uris": ["http://a"], "suites": ["trixie"], "components": ["main"], "key": KEY}


@dataclass
class Apt:
    """Answers in turn, the last one again and again; keeps what it was asked and the source it saw."""

    answers: list[Completed]
    asked: list[list[str]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    key: str = KEY

    def run(self, command: Sequence[str], variables: Mapping[str, str]) -> Completed:
        assert variables["LC_ALL"] == "C"
        self.asked.append(list(command))
        parts = next(word for word in command if word.startswith("-oDir::Etc::SourceParts="))
        self.seen.append((Path(parts.partition("=")[2]) / "this.sources").read_text())
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def fetch(self, url: str) -> str:
        self.fetched.append(url)
        return self.key

    def machine(self, root: Path) -> Machine:
        return Machine(self.run, self.fetch, root, lock_timeout=4, sleep=self.slept.append)


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_written_once_and_not_asked_again(tmp_path: Path) -> None:
    apt = Apt([OK])
    one = repository({**SITE, "pin": [{"packages": ["x"], "pin": "version 1", "priority": 1}]})
    changes = put_in_place(apt.machine(tmp_path), [one], check=False)
    written = files(tmp_path)
    assert {str(change.path.relative_to(tmp_path)) for change in changes} == set(written)
    assert set(written) == {one.key_path, one.source_path, one.preferences_path}
    assert written[one.key_path] == read_keys(KEY).armoured
    assert f"Signed-By: /{one.key_path}\n" in written[one.source_path]
    assert (tmp_path / one.source_path).stat().st_mode & 0o777 == 0o644
    assert "/key.asc\n" in apt.seen[0], "the key that was tried is not the one to be written"
    assert not any("Dir::State::Lists" in word for word in apt.asked[0])
    assert put_in_place(apt.machine(tmp_path), [one], check=False) == []
    assert len(apt.asked) == 1

    gone = repository({"name": "site", "state": "absent"})
    assert len(pending(apt.machine(tmp_path), [gone])) == 3
    put_in_place(apt.machine(tmp_path), [gone], check=False)
    assert files(tmp_path) == {}
    assert len(apt.asked) == 1


def test_check_mode_tries_and_keeps_nothing(tmp_path: Path) -> None:
    apt = Apt([OK])
    assert len(put_in_place(apt.machine(tmp_path), [repository(SITE)], check=True)) == 2
    assert files(tmp_path) == {}
    lists = next(word for word in apt.asked[0] if "Dir::State::Lists" in word)
    assert not Path(lists.partition("=")[2]).exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Completed(
                100,
                "Err:1 http://a trixie InRelease\n  Could not connect\n  Unable to connect:\nReading...\n",
                "E: Failed to fetch http://a\nE: Some index files failed to download. They have been ignored.\n",
            ),
            "found: Could not connect / Unable to connect: / E: Failed to fetch http://a. Nothing was changed",
        ),
        (Completed(7, "", ""), "found: exit code 7"),
        (Completed(0, "Reading package lists...\n", "W: Unable to read x\n"), "found: W: Unable to read x"),
    ],
)
def test_what_apt_does_not_take_is_not_written(tmp_path: Path, answer: Completed, words: str) -> None:
    fine = repository({**SITE, "name": "fine"})
    with pytest.raises(RepositoryError) as raised:
        put_in_place(Apt([OK, answer]).machine(tmp_path), [fine, repository(SITE)], check=False)
    assert words in str(raised.value)
    assert str(raised.value).startswith("repository 'site': expected lists that apt accepts from http://a (trixie)")
    assert files(tmp_path) == {}


def test_the_lock_of_another_apt_is_waited_for(tmp_path: Path) -> None:
    locked = Completed(100, "", "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)\n")
    apt = Apt([locked, OK])
    assert put_in_place(apt.machine(tmp_path), [repository(SITE)], check=False)
    assert apt.slept == [2]
    with pytest.raises(RepositoryError, match="Could not get lock"):
        refresh(Apt([locked]).machine(tmp_path), repository(SITE))


def test_a_key_is_fetched_once(tmp_path: Path) -> None:
    described = {**SITE, "key": None, "key_url": "http://a/key.asc", "key_fingerprint": FINGERPRINT}
    apt = Apt([OK])
    put_in_place(apt.machine(tmp_path), [repository(described)], check=False)
    put_in_place(apt.machine(tmp_path), [repository(described)], check=False)
    assert apt.fetched == ["http://a/key.asc"]
    (tmp_path / repository(described).key_path).write_text("damaged")
    put_in_place(apt.machine(tmp_path), [repository(described)], check=False)
    assert len(apt.fetched) == 2
    apt.key = block(packet(6, b"\x04" + bytes(9)))
    (tmp_path / repository(described).key_path).unlink()
    with pytest.raises(
        RepositoryError, match=f"key from http://a/key.asc: expected a key with the fingerprint {FINGERPRINT}"
    ):
        put_in_place(apt.machine(tmp_path), [repository(described)], check=False)


def test_a_repository_without_a_key_and_one_named_twice(tmp_path: Path) -> None:
    local = repository({"name": "own", "uris": ["file:/srv"], "suites": ["./"], "trusted": True})
    assert len(put_in_place(Apt([OK]).machine(tmp_path), [local], check=False)) == 1
    with pytest.raises(RepositoryError, match="found own more than once"):
        put_in_place(Apt([OK]).machine(tmp_path), [local, local], check=False)


def test_all_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write([Change(tmp_path / "a", "old", "new"), Change(tmp_path / "file/b", None, "new")])
    assert files(tmp_path) == {"a": "old", "file": ""}


def test_fetching(tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_text("text")
    assert glue.fetch(f"file:{tmp_path}/key.asc") == "text"
    with pytest.raises(RepositoryError, match=r"expected a key at file:.*gone, found: .*No such file"):
        glue.fetch(f"file:{tmp_path}/gone")
    with pytest.raises(RepositoryError, match="begin with https:, http: or file:, found 'ftp://a'"):
        glue.fetch("ftp://a")


def test_ansibles_face_of_a_change_and_of_a_machine(tmp_path: Path) -> None:
    assert glue.diff_of(Change(Path("/a"), None, "x")) == {
        "before": "",
        "after": "x",
        "before_header": "/a",
        "after_header": "/a",
    }

    class Module:
        def run_command(self, command: list[str], environ_update: dict[str, str]) -> tuple[int, str, str]:
            return len(command), environ_update["LC_ALL"], "err"

    assert glue.machine_of(Module()).run(["a", "b"], {"LC_ALL": "C"}) == Completed(2, "C", "err")
    assert glue.machine_of(Module()).root == Path("/")
