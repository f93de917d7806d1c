# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put files of a controller in place and have it take them over: all or nothing, as in :mod:`.publish`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .control import Runner
from .publish import PublishError, locked, pending, replace_file
from .scontrol import Scontrol, ScontrolError

UNIT = "slurmctld.service"


@dataclass(frozen=True)
class Replaced:
    """A file with the text *before* and *after*; ``None`` where there is none."""

    path: Path
    before: str | None
    after: str | None


def differing(files: Mapping[Path, str | None]) -> list[Replaced]:
    """Which of these are not as wanted.

    :raises PublishError: one can't be read.
    """
    changes = (Replaced(path, read_text(path), text) for path, text in files.items())
    return [change for change in changes if change.before != change.after]


def read_text(path: Path) -> str | None:
    """What is in a file; ``None`` where there is none.

    :raises PublishError: it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"expected a readable text file, found {path}: {error}") from error


def install(conf: Path, changes: Sequence[Replaced], activate: Callable[[], None] | None = None) -> None:
    """Write files beside *conf*, then *activate*, also for those of an earlier run that did not come to it.

    :raises PublishError: one can't be written; the old ones are back.
    :raises Exception: what *activate* raised, after the old ones came back.
    """
    mark = pending(conf)
    with locked(conf, check=False):
        done: list[Replaced] = []
        left_over = mark.exists()
        try:
            if activate is not None:
                mark.touch()
            for change in changes:
                done.append(change)
                _put(change.path, change.after)
            if activate is not None:
                activate()
                mark.unlink(missing_ok=True)
        except BaseException as error:
            for change in reversed(done):
                _put(change.path, change.before)
            if not left_over:
                mark.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise PublishError(f"{error.filename}: {error.strerror}; the old files are back") from error
            raise


def _put(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        replace_file(path, text)


@dataclass(frozen=True)
class Service:
    """The controller's service on this machine."""

    run: Runner
    slurm: Scontrol

    def runs(self) -> bool:
        """Whether any controller of the cluster is to answer: it does, or it is just starting here."""
        if self.slurm.answers():
            return True
        state = self.run(["systemctl", "is-active", UNIT]).stdout.strip()
        return state in ("active", "activating", "reloading", "deactivating")

    def reconfigure(self) -> None:
        """Have the controller take its files over, and wait until it answers.

        :raises ScontrolError: it refused them, or does not answer.
        """
        self.slurm.reconfigure()
        self.slurm.wait_until_answers()

    def restart(self) -> None:
        """The same with a start anew, for what no reconfiguration takes over.

        :raises ScontrolError: it does not start with them.
        """
        self.run(["systemctl", "reset-failed", UNIT])  # so that systemd does not count the attempts
        done = self.run(["systemctl", "restart", UNIT])
        if done.rc != 0:
            raise ScontrolError(f"systemctl restart {UNIT} failed: {done.stderr.strip()}")
        self.slurm.wait_until_answers()

    def revive(self) -> str:
        """After the old files came back: start a controller that did not survive. Tells what was done."""
        if self.runs():
            try:
                self.slurm.wait_until_answers()
            except ScontrolError:
                pass
            else:
                return "The controller runs on with the old files"
        try:
            self.restart()
        except ScontrolError as error:
            return f"The controller was started again with the old files, and does not answer ({error})"
        return "The controller had ended; it was started again with the old files"
