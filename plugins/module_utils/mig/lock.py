# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One change at a time on a machine: a lock that the kernel gives up when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = Path("run/hpc-compute/gpu-layout.lock")
_POLL_S = 0.05


class LockError(Exception):
    """The lock could not be had; the text says who has it."""


@contextmanager
def locked(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock file *path*; wait for it *wait_s* seconds at most.

    :raises LockError: another process held it for all that time, or the file can't be made.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # For its owner alone: whoever may open a file may lock it, and a job could hold up every change for ever.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise LockError(f"expected to make the lock file {path}: {error.strerror or error}; be root") from error
    try:
        _acquire(descriptor, path, wait_s)
        # For whoever waits: it names the holder. A file that a killed holder left is simply written anew.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_S)  # flock has no timeout of its own
                continue
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LockError(
                f"another change of the GPU layout is going on: process {holder} holds {path} for more than "
                f"{wait_s:g} s; wait until it has ended, and see what it does with 'ps -fp {holder}'"
            ) from None
        return
