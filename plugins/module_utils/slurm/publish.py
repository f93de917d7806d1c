# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put what nodes offer into slurm.conf and the files it includes, and have the controller take it over.

All or nothing: where a file can't be written, or the controller refuses the new configuration, the old files come back.
In Slurm 24.11 ``scontrol reconfigure`` proves a configuration before it is used: the running controller starts its
successor with it and goes on itself when that fails.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .node_lines import Edited, NodeLineError, set_gres

INCLUDE = re.compile(r"(?im)^[ \t]*include[ \t]+(\S+)")
_MOST_INCLUDES = 20


class PublishError(Exception):
    """Nothing was changed, or it was changed back; the text says why."""


@dataclass(frozen=True)
class FileChange:
    """A file with the text *before* and *after*."""

    path: Path
    before: str
    after: str


@dataclass(frozen=True)
class Published:
    """*files* that were, or would be, changed. *before*: ``Gres=`` of each node as it was, to be published again.

    *left_over*: the controller had not been told of files that were there already.
    """

    files: tuple[FileChange, ...]
    before: Mapping[str, str]
    left_over: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.files) or self.left_over


def pending(conf: Path) -> Path:
    """A mark that is there from the first change until the controller has taken it over: runs may be killed."""
    return conf.with_name(f".{conf.name}.hpc-compute-pending")


def publish(
    path: Path, wanted: Mapping[str, str], reconfigure: Callable[[], None] | None = None, check: bool = False
) -> Published:
    """Give each node in *wanted* its ``Gres=``, in *path* or in the file that *path* includes and has its line.

    :param reconfigure: makes the controller read it, called when something was changed, now or by a run that was killed
        before it came to that; it raises when that failed.
    :param check: only tell what would be changed.
    :raises PublishError: a node has no line, a file can't be read or written. Nothing was changed.
    :raises Exception: what *reconfigure* raised, after the old files came back. The controller still runs with those.
    """
    mark = pending(path)
    with locked(path, check):
        left_over = reconfigure is not None and mark.exists()
        plan = replace(_plan(path, wanted), left_over=left_over)
        if check or not plan.changed:
            return plan
        done: list[FileChange] = []
        try:
            if reconfigure is not None:
                mark.touch()
            for change in plan.files:
                replace_file(change.path, change.after)
                done.append(change)
            if reconfigure is not None:
                reconfigure()
                mark.unlink(missing_ok=True)
        except BaseException as error:
            for change in done:
                replace_file(change.path, change.before)
            if reconfigure is not None and not left_over:
                mark.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise PublishError(f"{error.filename}: {error.strerror}; the old configuration is back") from error
            raise
        return plan


def _plan(path: Path, wanted: Mapping[str, str]) -> Published:
    changes = []
    before: dict[str, str] = {}
    for file, text in conf_files(path):
        try:
            edited: Edited = set_gres(text, wanted)
        except NodeLineError as error:
            raise PublishError(f"{file}: {error}") from error
        before |= edited.before
        if edited.text != text:
            changes.append(FileChange(file, text, edited.text))
    missing = sorted(set(wanted) - set(before))
    if missing:
        raise PublishError(
            f"expected lines NodeName= for {', '.join(missing)} in {path} or a file it includes, found none; "
            "run the playbook that configures the cluster first"
        )
    return Published(tuple(changes), before)


def conf_files(
    path: Path, *, skip: Path | None = None, instead: Mapping[Path, str] | None = None, depth: int = 0
) -> Iterator[tuple[Path, str]]:
    """A slurm.conf and all files that it includes, each with its text.

    :param skip: a file that is passed over, and need not be there.
    :param instead: texts that count in place of those on the disk.
    :raises PublishError: one can't be read.
    """
    if depth > _MOST_INCLUDES:
        raise PublishError(f"{path}: files include each other without end")
    try:
        text = instead[path] if instead and path in instead else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"expected a readable text file, found {path}: {error}") from error
    yield path, text
    for name in INCLUDE.findall(text):
        if path.parent / name != skip:
            yield from conf_files(path.parent / name, skip=skip, instead=instead, depth=depth + 1)


def replace_file(path: Path, text: str) -> None:
    """Replace a file as a whole; its owner and mode stay. A link stays one: what it points to is replaced.

    A new one is for all to read.

    :raises OSError: it can't be written; the old one is still there.
    """
    path = Path(os.path.realpath(path))
    status = path.stat() if path.exists() else None
    fresh = path.with_name(f".{path.name}.hpc-compute-new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            if status is not None:
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o7777 if status is not None else 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, check: bool) -> Iterator[None]:
    """Two changes at a time would each write the file without the other's line.

    :raises PublishError: there is no folder of *path*.
    """
    if check:
        yield
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise PublishError(f"expected the folder {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
