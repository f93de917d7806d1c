# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes repositories known to apt. Each is tried first, in a folder of its own: what does not answer, or is signed by
another key, never reaches /etc/apt, where it would make every later ``apt-get update`` fail."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .sources import Repository, RepositoryError, preferences_text, read_key, source_text


@dataclass(frozen=True)
class Completed:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Machine:
    """What this needs of the machine: *run(command, variables)*, *fetch(url)* the text there, and its *root*.

    *fetch* raises ``RepositoryError`` with the reason.
    """

    run: Callable[[Sequence[str], Mapping[str, str]], Completed]
    fetch: Callable[[str], str]
    root: Path = Path("/")
    lock_timeout: float = 300
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Change:
    """A file as it is and as it is to be; ``None`` where there is none."""

    path: Path
    before: str | None
    after: str | None


@dataclass(frozen=True)
class _Wanted:
    one: Repository
    key: str | None
    changes: tuple[Change, ...]


def put_in_place(machine: Machine, repositories: Sequence[Repository], check: bool) -> list[Change]:
    """Make apt know *repositories*, with their lists fetched; the files that changed, or (*check*) would.

    :raises RepositoryError: one does not work. Nothing was changed then.
    """
    names = [one.name for one in repositories]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RepositoryError(f"expected each repository once, found {', '.join(twice)} more than once")
    wanted = [_wanted(machine, one) for one in repositories]
    changed = [entry for entry in wanted if entry.changes]
    for entry in changed:
        if not entry.one.absent:
            _try(machine, entry, keep_lists=not check)
    changes = [change for entry in changed for change in entry.changes]
    if not check:
        write(changes)
    return changes


def pending(machine: Machine, repositories: Sequence[Repository]) -> list[Change]:
    """The files that are not as *repositories* want them, without asking whether these work."""
    return [change for one in repositories for change in _wanted(machine, one).changes]


def write(changes: Sequence[Change]) -> None:
    """Write every file, whole, or none of them."""
    done: list[Change] = []
    try:
        for change in changes:
            _write(change.path, change.after)
            done.append(change)
    except OSError:
        for change in done:
            _write(change.path, change.before)
        raise


def refresh(machine: Machine, one: Repository) -> None:
    """Fetch the lists of *one* again, which apt knows already.

    :raises RepositoryError: apt could not.
    """
    _try(machine, _Wanted(one, None, ()), keep_lists=True)


def _wanted(machine: Machine, one: Repository) -> _Wanted:
    key = None if one.absent else _key(machine, one)
    texts = {
        one.key_path: key,
        one.source_path: None if one.absent else source_text(one, f"/{one.key_path}"),
        one.preferences_path: (None if one.absent else preferences_text(one)) or None,
    }
    changes = []
    for path, text in texts.items():
        target = machine.root / path
        before = target.read_text(encoding="utf-8") if target.is_file() else None
        if before != text:
            changes.append(Change(target, before, text))
    return _Wanted(one, key, tuple(changes))


def _key(machine: Machine, one: Repository) -> str | None:
    if one.key:
        return read_key(one, one.key, "the variable or file").armoured
    if not one.key_url:
        return None
    present = machine.root / one.key_path
    if present.is_file():
        try:
            return read_key(one, present.read_text(encoding="utf-8"), str(present)).armoured
        except RepositoryError:
            pass  # another key was asked for before, or somebody changed the file: fetched anew
    return read_key(one, machine.fetch(one.key_url), one.key_url).armoured


def _try(machine: Machine, entry: _Wanted, *, keep_lists: bool) -> None:
    """Have apt fetch the lists of this repository alone, and nothing but these files be read for it."""
    one = entry.one
    with _folder() as folder:
        (folder / "sources").mkdir()
        key_path = folder / "key.asc" if entry.key else machine.root / one.key_path
        if entry.key:
            key_path.write_text(entry.key, encoding="utf-8")
        (folder / "sources/this.sources").write_text(source_text(one, str(key_path)), encoding="utf-8")
        (folder / "no.list").touch()
        settings = {
            "Dir::Etc::SourceList": str(folder / "no.list"),
            "Dir::Etc::SourceParts": str(folder / "sources"),
            "APT::Get::List-Cleanup": "false",
            "APT::Update::Error-Mode": "any",
            "Acquire::Retries": "1",
        }
        if not keep_lists:
            (folder / "lists").mkdir()
            settings["Dir::State::Lists"] = str(folder / "lists")
        command = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in settings.items()), "update"]
        done = _patient(machine, command)
        # apt also succeeds where it finds no source to ask
        if done.returncode != 0 or not re.search(r"(?m)^(Get|Hit):", done.stdout):
            raise RepositoryError(
                f"repository {one.name!r}: expected lists that apt accepts from {' '.join(one.uris)} "
                f"({' '.join(one.suites)}), found: {_told(done, str(key_path))}. "
                "Nothing was changed. Check the address, that this machine reaches it, and that the key is its own"
            )


def _patient(machine: Machine, command: Sequence[str]) -> Completed:
    """Run *command*, again while another apt has the lists locked: apt itself does not wait for that lock."""
    waited = 0.0
    while True:
        done = machine.run(command, {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"})
        if done.returncode == 0 or "Could not get lock" not in done.stderr or waited >= machine.lock_timeout:
            return done
        machine.sleep(2)
        waited += 2


def _told(done: Completed, key_path: str) -> str:
    """apt's own words, without the lines that say the same again."""
    # indented under "Err:" stands why; the last words of apt are about its having failed at all
    reasons = [
        line.strip() for block in re.findall(r"(?m)^Err:.*\n((?:  .*\n?)+)", done.stdout) for line in block.splitlines()
    ]
    errors = [line.strip() for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    useful = [line for line in [*reasons, *errors] if "index files failed to download" not in line]
    said = " / ".join(dict.fromkeys(useful)) or f"exit code {done.returncode}"
    return said.replace(key_path, "the key")


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that apt's own user may read, too."""
    folder = Path(tempfile.mkdtemp(prefix="hpc-compute-apt-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as opened:
        opened.write(text)
        os.fchmod(opened.fileno(), 0o644)
    part.replace(path)
