# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text files that a role owns, all in one go: what would change, and the change, each file whole or not at all."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: exit code, stdout, stderr
Run = Callable[[Sequence[str]], tuple[int, str, str]]


class FileError(Exception):
    """A file can't be read or written; the text says which and why."""


@dataclass(frozen=True)
class TextFile:
    """A file of root's, as it is to be. *content* ``None``: it is not to be there."""

    path: Path
    content: str | None
    mode: int = 0o644


@dataclass(frozen=True)
class Change:
    """A file that is not as it is to be. *before* is ``None`` where there is none."""

    wanted: TextFile
    before: str | None
    mode_before: int | None = None


def changes(files: Sequence[TextFile]) -> list[Change]:
    """Which of *files* differ, in text, mode or owner; nothing is written.

    :raises FileError: one can't be read, or is no file.
    """
    found = []
    for wanted in files:
        try:
            there = wanted.path.lstat()
            if not stat.S_ISREG(there.st_mode):
                raise FileError(f"expected {wanted.path} to be a file, found something else: move it out of the way")
            before = wanted.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            if wanted.content is not None:
                found.append(Change(wanted, None))
            continue
        except OSError as error:
            raise FileError(f"expected to read {wanted.path}: {error.strerror or error}") from error
        mode = stat.S_IMODE(there.st_mode)
        right = before == wanted.content and mode == wanted.mode and (there.st_uid, there.st_gid) == _owner()
        if not right:
            found.append(Change(wanted, before, mode))
    return found


def try_out(change: Change, command: str, run: Run) -> None:
    """Have *command*, in which ``%s`` stands for the new file, read it before it is put in place.

    :raises FileError: the command fails.
    """
    if change.wanted.content is None:
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=f"{change.wanted.path.name}.") as new:
        new.write(change.wanted.content)
        new.flush()
        code, stdout, stderr = run([word.replace("%s", new.name) for word in shlex.split(command)])
    if code != 0:
        last = ((stderr.strip() or stdout.strip()).splitlines() or ["no message"])[-1]
        raise FileError(
            f"expected a text for {change.wanted.path} that '{command}' takes, it failed with exit code {code}: "
            f"{last}. No file was written"
        )


def write(change: Change) -> None:
    """Make the file as it is to be, and the directories above it.

    :raises FileError: it can't be written.
    """
    path, content = change.wanted.path, change.wanted.content
    part = path.with_name(f".{path.name}.hpc-compute")
    try:
        if content is None:
            path.unlink(missing_ok=True)
            return
        _make(path.parent)
        with open(part, "w", encoding="utf-8", opener=_private) as sink:  # an opener is needed
            sink.write(content)
            sink.flush()
            os.fchmod(sink.fileno(), change.wanted.mode)
            os.fsync(sink.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise FileError(f"expected to write {path}: {error.strerror or error}") from error


def _make(folder: Path) -> None:
    """A directory with those above it, for all to read, whatever the umask of root's sessions is."""
    for one in reversed((folder, *folder.parents)):
        if not one.exists():
            one.mkdir()
            one.chmod(0o755)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_TRUNC | os.O_NOFOLLOW, 0o600)


def _owner() -> tuple[int, int]:
    """Whose the files are: root's on a machine, the tester's in a test."""
    return os.geteuid(), os.getegid()
