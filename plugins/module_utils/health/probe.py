# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions that may never be answered, asked in processes of their own.

A driver that hangs, or a network file system whose server is gone, keeps a process in the kernel: it can't be killed,
and whoever waits for it waits as long. So each such question is a child that is left behind when its time is up; it
holds nothing of its parent's. Its id is noted, and while it still hangs the next run starts no other one beside it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: Where left children are noted.
HANGING = Path("run/hpc-compute/node-health")

_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Answer:
    """*value* is what the question returned; where it did not, *text* says why."""

    state: Literal["answered", "failed", "hangs"]
    value: Any = None
    text: str = ""


@dataclass(frozen=True)
class Probe:
    """A question under way. *pipe* is where the answer comes from; without one it hung already when it was asked."""

    name: str
    limit: float
    note: Path
    started: float = 0.0
    pid: int = 0
    pipe: int | None = None


def ask(
    name: str, question: Callable[[], Any], limit: float, root: Path = Path("/"), proc: Path = Path("/proc")
) -> Probe:
    """Ask in a child of its own; *question* returns something that JSON can hold."""
    note = root / HANGING / f"hanging-{name}"
    if _hangs_still(note, proc):
        return Probe(name, limit, note)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(question, writer)
    os.close(writer)
    return Probe(name, limit, note, time.monotonic(), pid, reader)


def answer(probe: Probe, proc: Path = Path("/proc")) -> Answer:
    """Wait for the answer, until the question's time is up."""
    if probe.pipe is None:
        return Answer("hangs", text=f"a process that asked earlier still hangs (see {probe.note})")
    data, ended = _read(probe.pipe, probe.started + probe.limit)
    os.close(probe.pipe)
    if not ended:
        os.kill(probe.pid, signal.SIGKILL)
        if not _gone(probe.pid):
            _remember(probe, proc)
        return Answer("hangs", text=f"no answer in {probe.limit:g} s")
    os.waitpid(probe.pid, 0)
    try:
        told = json.loads(data)
    except ValueError:
        return Answer("failed", text="the process that asked ended without a word")
    return Answer("answered", told["value"]) if "value" in told else Answer("failed", text=str(told["error"]))


def _child(question: Callable[[], Any], writer: int) -> None:
    """Never returns, and runs nothing of what the parent has set up for its own end."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        os.dup2(writer, 3)
        os.closerange(4, 1024)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            told = json.dumps({"value": question()})
        except Exception as error:  # whatever it was, it is the answer
            told = json.dumps({"error": f"{type(error).__name__}: {error}"})
        data = told.encode()
        while data:
            data = data[os.write(3, data) :]
        code = 0
    finally:
        os._exit(code)


def _read(pipe: int, end: float) -> tuple[bytes, bool]:
    """What came until *end*, and whether that was all."""
    data = b""
    while len(data) < _MOST_BYTES:
        ready, _, _ = select.select([pipe], [], [], max(end - time.monotonic(), 0))
        if not ready:
            return data, False
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return data, True
        data += piece
    return data, False


def _gone(pid: int, seconds: float = 1.0) -> bool:
    """Whether a killed child ends within a moment."""
    end = time.monotonic() + seconds
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _remember(probe: Probe, proc: Path) -> None:
    born = _born(probe.pid, proc)
    if born is not None:
        probe.note.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        probe.note.write_text(f"{probe.pid} {born}\n", encoding="ascii")


def _hangs_still(note: Path, proc: Path) -> bool:
    try:
        pid, born = note.read_text(encoding="ascii").split()
        if _born(int(pid), proc) == born:
            return True
        note.unlink(missing_ok=True)
    except (OSError, ValueError):
        pass  # nothing is noted, or nothing of use
    return False


def _born(pid: int, proc: Path) -> str | None:
    """When a process started, which no other with its id did; ``None`` when it is gone or has ended."""
    try:
        fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
