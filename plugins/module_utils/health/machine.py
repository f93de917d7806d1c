# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every machine needs, GPUs or not: room, file systems, mounts, memory, a clock. And the files Slurm hands out."""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..slurm.hostlist import expand
from .model import Finding, fault, note
from .settings import Disk

#: Where slurmd keeps the files of a controller that serves them (configless).
_GRES_CONF = (Path("etc/slurm/gres.conf"), Path("run/slurm/conf/gres.conf"))

# Local file systems that the kernel makes read-only when it finds them damaged.
_WRITABLE_TYPES = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "bcachefs"})

_TIME_ERROR = 5  # what adjtimex(2) returns while the clock is not synchronised
_TIMEX_BYTES = 512  # more than struct timex has on any platform


@dataclass(frozen=True)
class Mount:
    """A line of ``/proc/self/mountinfo``. *read_only* is the file system itself, not this one view of it."""

    source: str
    path: str
    type: str
    read_only: bool


def read_mounts(proc: Path) -> list[Mount]:
    """What is mounted, in the order in which it was.

    :raises OSError: the file can't be read.
    """
    found = []
    for line in (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        view, _, system = line.partition(" - ")
        words, its = view.split(), system.split()
        if len(words) >= 6 and len(its) >= 3:
            options = its[2].split(",")
            found.append(Mount(_plain(its[1]), _plain(words[4]), its[0], "ro" in options or "emergency_ro" in options))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def read_only(mounts: Iterable[Mount], fstab: str) -> Iterator[Finding]:
    """File systems of the machine's own disks that are read-only and were not meant to be."""
    lines = [line.partition("#")[0].split() for line in fstab.splitlines()]
    meant = {_plain(words[1]) for words in lines if len(words) >= 4 and "ro" in words[3].split(",")}
    told: set[str] = set()
    for one in mounts:
        if one.type in _WRITABLE_TYPES and one.read_only and one.path not in meant and one.source not in told:
            told.add(one.source)
            yield fault(one.path, f"{one.source} ({one.type}) is read-only, see the kernel log")


def missing_mounts(wanted: Sequence[str], mounts: Iterable[Mount]) -> Iterator[Finding]:
    """Wanted mounts that are not there. Whether the others answer is another question."""
    there = {one.path for one in mounts}
    for path in wanted:
        if (path.rstrip("/") or "/") not in there:
            yield fault(path, "is not mounted")


def touch(path: str) -> None:
    """Look at a mounted file system; one that hangs does so here.

    :raises OSError: it does not do what it is there for.
    """
    os.statvfs(path)
    with os.scandir(path) as entries:
        next(entries, None)


def room(disk: Disk, statvfs: Callable[[str], os.statvfs_result] = os.statvfs) -> list[Finding]:
    """What there is too little of where a path is.

    :raises OSError: it can't be told.
    """
    there = statvfs(disk.path)
    findings = []
    free = there.f_bavail * there.f_frsize
    # What is kept for root is not for jobs.
    usable = (there.f_blocks - there.f_bfree + there.f_bavail) * there.f_frsize
    percent = 100 * free / usable if usable else 100.0
    if percent < disk.free_percent:
        told = f"{percent:.1f} % is free ({free >> 20} MiB), expected {disk.free_percent:g} %"
        findings.append(fault(disk.path, told))
    elif free < disk.free_mib * (1 << 20):
        findings.append(fault(disk.path, f"{free >> 20} MiB are free, expected {disk.free_mib:g} MiB"))
    # Some file systems count no inodes.
    share = 100 * there.f_favail / there.f_files if there.f_files else 100.0
    if share < disk.free_inodes_percent:
        told = f"{share:.1f} % of the inodes are free, expected {disk.free_inodes_percent:g} %"
        findings.append(fault(disk.path, told))
    return findings


def memory(root: Path, proc: Path, available_mib: int) -> list[Finding]:
    """Memory that is broken, or too little of it.

    :raises OSError, ValueError: it can't be told.
    """
    findings = []
    for path in sorted((root / "sys/devices/system/edac/mc").glob("mc*/ue_count")):
        count = int(path.read_text(encoding="ascii"))
        if count:
            findings.append(fault(path.parent.name, f"{count} uncorrectable memory errors since boot"))
    words = {}
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        words[key] = int(value.split()[0])
    broken = words.get("HardwareCorrupted", 0)
    if broken:
        findings.append(note("", f"the kernel took {broken} kB of broken memory out of use"))
    available = words["MemAvailable"] >> 10
    if available < available_mib:
        findings.append(fault("", f"{available} MiB of memory are available, expected {available_mib} MiB"))
    return findings


def clock(adjtimex: Callable[[ctypes.Array[ctypes.c_char]], int] | None = None) -> list[Finding]:
    """Whether the kernel's clock is kept in step; munge refuses what is minutes off."""
    if adjtimex is None:
        adjtimex = ctypes.CDLL(None).adjtimex
    # All zeros ask and change nothing. A container may not even ask: the clock is its host's.
    state = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return [fault("", "the clock is not synchronised (timedatectl)")] if state == _TIME_ERROR else []


def gres_files(root: Path, node: str) -> list[str]:
    """The device files that gres.conf names for this node, in order; none where it leaves them to detection.

    :raises OSError, ValueError: there is a gres.conf that can't be read.
    """
    for place in _GRES_CONF:
        if (root / place).exists():
            text = (root / place).read_text(encoding="utf-8", errors="replace")
            return list(dict.fromkeys(_files(text, node)))
    return []


def _files(text: str, node: str) -> Iterator[str]:
    for line in text.splitlines():
        words = {key.lower(): value for key, value in re.findall(r"([A-Za-z]+)\s*=\s*(\S+)", line.partition("#")[0])}
        if "nodename" in words and node not in expand(words["nodename"]):
            continue
        for key in ("file", "multiplefiles"):
            yield from expand(words[key]) if key in words else ()


def missing_files(paths: Iterable[str], root: Path) -> list[str]:
    """Those that are not there, or no character devices where *root* is the machine's own."""
    return [path for path in paths if not _is_device(root, path)]


def _is_device(root: Path, path: str) -> bool:
    try:
        mode = (root / path.lstrip("/")).stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or root != Path("/")
