# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that a BeeGFS client runs on: its files, its mounts, and commands that can't hold a run up.

A network file system whose servers are gone blocks whoever touches it, and such a process can't even be killed. So
whatever may touch one happens in a process of its own, which is left behind when its time is up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: The exit code of what had no time left, as the command ``timeout`` has it.
TIMED_OUT = 124

_WRITE_TEST = """
import contextlib, os, sys
path, data = sys.argv[1], os.urandom(65536)
def write_and_read(handle):
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    with open(path, "rb") as file:
        return file.read()
try:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        found = write_and_read(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    os.unlink(path)
except OSError as error:
    sys.exit(f"{error.strerror}: {error.filename or path}")
if found != data:
    sys.exit(f"what was read from {path} is not what was written")
"""
_STATFS = """
import os, sys
try:
    seen = os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(f"{error.strerror}: {error.filename}")
print(seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize)
"""


@dataclass(frozen=True)
class Completed:
    """How a command ended; *rc* is 124 when its time was up."""

    rc: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        said = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return said[-1] if said else "it said nothing"


Runner = Callable[[Sequence[str], float], Completed]


@dataclass(frozen=True)
class Seen:
    """What is mounted on a path, and on top where there are several."""

    fstype: str
    source: str


def run(command: Sequence[str], timeout: float) -> Completed:
    """Run *command*; when it takes longer than *timeout* seconds it is killed and not waited for."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            return Completed(127, "", f"{error.strerror}: {command[0]}")
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = TIMED_OUT
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
    return Completed(code, *texts)


class Machine:
    """The machine below *root*."""

    def __init__(self, root: Path = Path("/"), runner: Runner = run) -> None:
        self.root = root
        self._run = runner

    def run(self, command: Sequence[str], timeout: float = 60) -> Completed:
        return self._run(command, timeout)

    def at(self, path: PurePosixPath | str) -> Path:
        """Where *path* of the machine is for us."""
        return self.root / str(path).lstrip("/")

    def read(self, path: PurePosixPath) -> bytes | None:
        try:
            return self.at(path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: PurePosixPath, content: bytes, mode: int) -> None:
        """Write it whole or not at all, for root only until its mode is set."""
        target = self.at(path)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def mounted(self, path: str) -> Seen | None:
        """What is mounted on *path*, without touching it."""
        seen = None
        for line in self.at("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            place, _, kind = line.partition(" - ")
            if _unescaped(place.split()[4]) == path:
                words = kind.split()
                seen = Seen(words[0], _unescaped(words[1]))
        return seen

    def users(self, path: str) -> list[str]:
        """Processes that have something below *path* open, as ``PID NAME``; reads links only, so it can't block."""
        found = []
        for process in sorted(self.at("/proc").glob("[0-9]*"), key=lambda one: int(one.name)):
            links = [process / "cwd", process / "root"]
            with suppress(OSError):  # it ended
                links += list((process / "fd").iterdir())
            if any(_below(link, path) for link in links):
                with suppress(OSError):
                    found.append(f"{process.name} {(process / 'comm').read_text(encoding='utf-8').strip()}")
        return found

    def fstab_line(self, path: str) -> str | None:
        """The line of /etc/fstab that claims *path*."""
        text = self.read(PurePosixPath("/etc/fstab")) or b""
        for line in text.decode("utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and not words[0].startswith("#") and (words[1].rstrip("/") or "/") == path:
                return line.strip()
        return None

    def space(self, path: str, timeout: float) -> Completed:
        """Total and free bytes of the file system at *path*, as two numbers."""
        return self.run([sys.executable, "-c", _STATFS, str(self.at(path))], timeout)

    def write_test(self, path: str, timeout: float) -> Completed:
        """Write a file at *path*, read it again, and remove it."""
        return self.run([sys.executable, "-c", _WRITE_TEST, str(self.at(path))], timeout)

    def seconds_since_boot(self) -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC)


def _below(link: Path, path: str) -> bool:
    try:
        target = str(link.readlink())
    except OSError:  # it ended, or is a kernel thread
        return False
    return target == path or target.startswith(f"{path}/")


def _unescaped(word: str) -> str:
    """mountinfo has blanks and the like in octal."""
    return word.encode("latin-1", errors="replace").decode("unicode_escape") if "\\" in word else word
