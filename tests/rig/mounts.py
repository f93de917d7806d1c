# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlays, and the certain removal of what is mounted below a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import RigError, run, wait_for


def mount_overlay(layers: Sequence[Path], merged: Path, upper: Path, work: Path) -> None:
    """Mount *layers* (upper first, read-only) with *upper* on top at *merged*.

    ``volatile``: the kernel skips every sync. A node that crashes is thrown away, never repaired, so its packages
    may be installed at the speed of memory.
    """
    for folder in (merged, upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work},volatile"
    done = run(["mount", "-t", "overlay", "-o", options, "overlay", merged], check=False)
    if done.returncode != 0:
        raise RigError(
            f"could not mount an overlay at {merged}: {done.stderr.strip()}. Its folders must not lie on another "
            "overlay (as a container's root file system is) nor on a network file system"
        )


@contextmanager
def overlay(layers: Sequence[Path], upper: Path, work: Path) -> Iterator[Path]:
    """An overlay for the time of a ``with`` block; what was written stays in *upper*."""
    merged = work / "merged"
    mount_overlay(layers, merged, upper, work / "work")
    try:
        yield merged
    finally:
        unmount_below(merged)


def below(folder: Path) -> list[str]:
    """Mount points at or below *folder*, innermost first."""
    prefix = str(folder.resolve())  # as the kernel names it
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    return [point for point in reversed(list(points)) if point == prefix or point.startswith(prefix + "/")]


def overlays_on(folder: Path) -> list[str]:
    """Mount points of overlays that have a lower layer in *folder*."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [line.split()[4] for line in lines if " - overlay " in line and f"{folder}/" in line.split(" - ", 1)[1]]


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below *folder*; a process that is just ending may hold it for a moment.

    :raises RigError: something keeps it in use.
    """

    def gone() -> bool:
        for point in below(folder):
            run(["umount", point], check=False)
        return not below(folder)

    wait_for(f"the mounts below {folder} to be free (see 'fuser -vm {folder}')", gone, seconds=15)


def remove_tree(folder: Path) -> None:
    """Unmount what is below *folder*, then delete it. Nothing happens when it does not exist."""
    unmount_below(folder)
    if folder.exists():
        shutil.rmtree(folder)
