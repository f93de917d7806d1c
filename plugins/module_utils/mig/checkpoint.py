# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is being changed right now, on disk: so that whoever comes after a kill or a power loss can put it straight.

The file exists only while a GPU may be between two states. It is replaced as a whole and synced before the first step,
so that it is either the old one or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .apply_state import ExactState
from .steps import Step, step_from_dict, step_to_dict

CHECKPOINT = Path("var/lib/hpc-compute/gpu-layout.checkpoint")
_SCHEMA = 1


class CheckpointError(Exception):
    """The checkpoint can't be read or written; the text says why and what to do."""


@dataclass(frozen=True)
class Change:
    """One GPU on its way from *previous* to *wanted*. *cursor*: the step (from 0) that was started last."""

    pci_address: str
    previous: ExactState
    wanted: ExactState
    steps: tuple[Step, ...] = ()
    cursor: int = 0


class Checkpoint:
    """The file at *path*. Use it under the lock only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[Change, ...]:
        """Changes that began and did not end, none where there is no file.

        :raises CheckpointError: there is a file, but it can't be used.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"the checkpoint {self.path} could not be read: {error}; {_advice(self.path)}"
            ) from error
        try:
            data = json.loads(text)
            if data["schema"] != _SCHEMA:
                raise ValueError(f"its schema is {data['schema']!r}, expected {_SCHEMA}")
            return tuple(_change(entry) for entry in data["gpus"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"the checkpoint {self.path} of an interrupted change can't be used ({error!r}); {_advice(self.path)}"
            ) from error

    def begin(self, change: Change) -> None:
        """Note *change*, on disk for certain when this returns."""
        others = [one for one in self.load() if one.pci_address != change.pci_address]
        self._write([*others, change], sync=True)

    def advance(self, pci_address: str, cursor: int) -> None:
        """Note that a step is about to be started. Not synced: it is for people, recovery looks at the GPU itself."""
        moved = (replace(one, cursor=cursor) if one.pci_address == pci_address else one for one in self.load())
        self._write(list(moved), sync=False)

    def end(self, pci_address: str) -> None:
        """Forget the change of a GPU: it has reached one of its two states, or is gone from the machine."""
        left = [one for one in self.load() if one.pci_address != pci_address]
        if left:
            self._write(left, sync=True)
            return
        try:
            self.path.unlink(missing_ok=True)
            _sync(self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, changes: Sequence[Change], sync: bool) -> None:
        data = {"schema": _SCHEMA, "pid": os.getpid(), "gpus": [_entry(one) for one in changes]}
        fresh = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with fresh.open("w", encoding="utf-8") as file:
                json.dump(data, file, indent=1)
                file.write("\n")
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            fresh.replace(self.path)
            if sync:
                _sync(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self.path} could not be written: {error.strerror or error}; no change of a GPU is "
            "begun without it: make room or be root"
        )


def _entry(change: Change) -> dict[str, Any]:
    return {
        "pci_address": change.pci_address,
        "previous": change.previous.to_dict(),
        "wanted": change.wanted.to_dict(),
        "steps": [step_to_dict(step) for step in change.steps],
        "cursor": change.cursor,
    }


def _change(entry: dict[str, Any]) -> Change:
    return Change(
        str(entry["pci_address"]),
        ExactState.from_dict(entry["previous"]),
        ExactState.from_dict(entry["wanted"]),
        tuple(step_from_dict(step) for step in entry["steps"]),
        int(entry["cursor"]),
    )


def _advice(path: Path) -> str:
    return f"look at the GPUs (gpu-layout show), then remove it: rm {path}"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
