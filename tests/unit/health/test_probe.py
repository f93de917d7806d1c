# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions that hang, fail, or are answered: whoever asks goes on in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health import probe as probe_file
from ansible_collections.hpc.compute.plugins.module_utils.health.probe import HANGING, Answer, answer, ask


def hang() -> None:
    while True:
        signal.pause()


def test_an_answer_comes_back_as_json(tmp_path: Path) -> None:
    assert answer(ask("a", lambda: {"b": [1, None]}, 10, tmp_path)) == Answer("answered", {"b": [1, None]})
    assert answer(ask("a", lambda: "x" * 300_000, 10, tmp_path)).value == "x" * 300_000
    assert not (tmp_path / HANGING).exists()


def test_an_exception_is_an_answer(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("nothing")

    assert answer(ask("a", fail, 10, tmp_path)) == Answer("failed", text="KeyError: 'nothing'")


@pytest.mark.parametrize("end", [lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)])
def test_a_death_is_an_answer(tmp_path: Path, end: object) -> None:
    got = answer(ask("a", end, 10, tmp_path))  # type: ignore[arg-type]
    assert got == Answer("failed", text="the process that asked ended without a word")


def test_no_answer_in_time_is_one_too(tmp_path: Path) -> None:
    started = time.monotonic()
    first, second = ask("a", hang, 0.4, tmp_path), ask("b", hang, 0.4, tmp_path)
    assert answer(first) == Answer("hangs", text="no answer in 0.4 s")
    assert answer(second).state == "hangs"
    assert time.monotonic() - started < 2  # the limits run side by side
    # Both could be killed: nothing is left.
    assert not (tmp_path / HANGING).exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(first.pid, os.WNOHANG)


def test_an_answer_without_end_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_file, "_MOST_BYTES", 1000)
    assert answer(ask("a", lambda: "x" * 100_000, 5, tmp_path)).state == "hangs"


@pytest.fixture
def undead(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Processes that can't be killed, as one that the kernel holds."""
    left: list[int] = []

    def stays(pid: int) -> bool:
        left.append(pid)
        return False

    monkeypatch.setattr(probe_file, "_gone", stays)
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    yield left
    monkeypatch.undo()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_while_it_hangs_nobody_asks_again(tmp_path: Path, undead: list[int]) -> None:
    def ask_(name: str) -> Answer:
        return answer(ask(name, hang if not undead or name != "a" else lambda: 1, 0.1, tmp_path))

    assert ask_("a").text == "no answer in 0.1 s"
    note = tmp_path / HANGING / "hanging-a"
    assert note.read_text().startswith(f"{undead[0]} ")
    assert ask_("a") == Answer("hangs", text=f"a process that asked earlier still hangs (see {note})")
    assert len(undead) == 1
    # Another process with its number, or none, is not it.
    note.write_text(f"{undead[0]} 1\n")
    assert ask_("a") == Answer("answered", 1)
    assert not note.exists()
    note.write_text("nonsense")
    assert ask_("a") == Answer("answered", 1)


def test_one_that_ended_after_all_is_not_waited_for(tmp_path: Path) -> None:
    child = ask("a", hang, 5, tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while probe_file._born(child.pid, Path("/proc")) is not None:  # a zombie of ours is no process any more
        assert time.monotonic() < end
        time.sleep(0.01)
    probe_file._remember(child, Path("/proc"))
    assert not (tmp_path / HANGING).exists()
    assert answer(child).state == "failed"


def test_a_killed_child_that_stays_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (0, 0))
    assert not probe_file._gone(1, seconds=0.05)


def test_it_holds_nothing_of_its_parents(tmp_path: Path) -> None:
    """A pipe that Slurm reads to its end must not stay open in a child that hangs."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    told = answer(ask("a", lambda: sorted(link.name for link in Path("/proc/self/fd").iterdir()), 10, tmp_path)).value
    os.close(writer)
    os.close(reader)
    # Three streams, the answer's pipe, and the directory that was just read.
    assert told == ["0", "1", "2", "3", "4"]


def test_a_child_is_a_session_of_its_own(tmp_path: Path) -> None:
    sid, pid = answer(ask("a", lambda: [os.getsid(0), os.getpid()], 10, tmp_path)).value
    assert sid == pid != os.getpid()
