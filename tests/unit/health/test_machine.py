# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Room, file systems, mounts, memory, clock, device files: each from made-up files."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health import machine
from ansible_collections.hpc.compute.plugins.module_utils.health.machine import Mount
from ansible_collections.hpc.compute.plugins.module_utils.health.model import fault, note
from ansible_collections.hpc.compute.plugins.module_utils.health.settings import Disk

MOUNTINFO = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
22 21 8:2 / /scratch rw,relatime - xfs /dev/sda2 ro,attr2
23 21 8:2 / /mnt/again ro,relatime - xfs /dev/sda2 ro,attr2
24 21 8:3 / /data rw - ext4 /dev/sda3 rw,emergency_ro
25 21 8:1 /a /view ro,relatime - ext4 /dev/sda1 rw
26 21 8:4 / /opt/with\040space ro - ext4 /dev/sda4 ro
27 21 7:0 / /snap ro - squashfs /dev/loop0 ro
28 21 0:5 / /home rw - nfs4 server:/home rw
short line - ext4
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def mounts(tmp_path: Path) -> list[Mount]:
    write(tmp_path / "self/mountinfo", MOUNTINFO)
    return machine.read_mounts(tmp_path)


def test_mounts_are_read(mounts: list[Mount]) -> None:
    assert len(mounts) == 8
    assert mounts[0] == Mount("/dev/sda1", "/", "ext4", False)
    assert mounts[5].path == "/opt/with space"


def test_file_systems_that_went_read_only(mounts: list[Mount]) -> None:
    fstab = "# /dev/sda2 /scratch xfs ro\n/dev/sda4 /opt/with\\040space ext4 defaults,ro 0 2\nodd\n"
    assert list(machine.read_only(mounts, fstab)) == [
        fault("/scratch", "/dev/sda2 (xfs) is read-only, see the kernel log"),
        fault("/data", "/dev/sda3 (ext4) is read-only, see the kernel log"),
    ]
    assert len(list(machine.read_only(mounts, ""))) == 3


def test_mounts_that_are_missing(mounts: list[Mount]) -> None:
    assert list(machine.missing_mounts(["/home/", "/", "/projects"], mounts)) == [fault("/projects", "is not mounted")]


def test_a_mount_is_looked_into(tmp_path: Path) -> None:
    machine.touch(str(tmp_path))
    with pytest.raises(OSError, match="No such file"):
        machine.touch(str(tmp_path / "gone"))


def statvfs(**fields: int) -> Callable[[str], Any]:
    plain = {"f_frsize": 1 << 20, "f_blocks": 1100, "f_bfree": 600, "f_bavail": 500, "f_files": 1000, "f_favail": 900}
    return lambda path: SimpleNamespace(**{**plain, **fields})


@pytest.mark.parametrize(
    ("disk", "fields", "words"),
    [
        (Disk("/x"), {}, []),
        (Disk("/x", free_percent=50.1), {}, ["50.0 % is free (500 MiB), expected 50.1 %"]),
        (Disk("/x", free_mib=501), {}, ["500 MiB are free, expected 501 MiB"]),
        (Disk("/x", free_inodes_percent=91), {}, ["90.0 % of the inodes are free, expected 91 %"]),
        (Disk("/x", free_inodes_percent=91), {"f_files": 0, "f_favail": 0}, []),
        (
            Disk("/x"),
            {"f_bavail": 0, "f_bfree": 100, "f_favail": 0},
            ["0.0 % is free (0 MiB), expected 5 %", "0.0 % of the inodes are free, expected 5 %"],
        ),
        (Disk("/x", 0, 0, 0), {"f_bavail": 0, "f_favail": 0}, []),
        (Disk("/x"), {"f_blocks": 0, "f_bfree": 0, "f_bavail": 0}, []),
    ],
)
def test_room(disk: Disk, fields: dict[str, int], words: list[str]) -> None:
    assert machine.room(disk, statvfs(**fields)) == [fault("/x", text) for text in words]


def test_room_of_this_machine() -> None:
    assert machine.room(Disk("/", 0, 0, 0)) == []


def test_memory(tmp_path: Path) -> None:
    meminfo = "MemTotal: 1000 kB\nMemAvailable:  2048000 kB\nHardwareCorrupted: {} kB\nHugePages_Total: 0\n"
    write(tmp_path / "meminfo", meminfo.format(0))
    assert machine.memory(tmp_path, tmp_path, 2000) == []
    assert machine.memory(tmp_path, tmp_path, 2001) == [
        fault("", "2000 MiB of memory are available, expected 2001 MiB")
    ]
    write(tmp_path / "meminfo", meminfo.format(4))
    write(tmp_path / "sys/devices/system/edac/mc/mc0/ue_count", "0\n")
    write(tmp_path / "sys/devices/system/edac/mc/mc1/ue_count", "2\n")
    assert machine.memory(tmp_path, tmp_path, 0) == [
        fault("mc1", "2 uncorrectable memory errors since boot"),
        note("", "the kernel took 4 kB of broken memory out of use"),
    ]


def test_clock() -> None:
    seen: list[bytes] = []

    def adjtimex(state: int) -> Callable[[ctypes.Array[ctypes.c_char]], int]:
        def answer(buffer: ctypes.Array[ctypes.c_char]) -> int:
            seen.append(buffer.raw)
            return state

        return answer

    assert machine.clock(adjtimex(0)) == []
    assert machine.clock(adjtimex(-1)) == []
    assert machine.clock(adjtimex(5)) == [fault("", "the clock is not synchronised (timedatectl)")]
    assert not any(b"".join(seen)), "it asked for a change"
    assert machine.clock() in ([], machine.clock(adjtimex(5)))


GRES = """\
# File=/dev/comment
AutoDetect=off
Name=gpu Type=h100 File=/dev/nvidia[0-1] Flags=nvidia_gpu_env # File=/dev/no
NodeName=n[1-2] Name=gpu MultipleFiles=/dev/nvidia2,/dev/cap1,/dev/cap2
NodeName=n3 Name=gpu File=/dev/nvidia7
Name=shard Count=4 File=/dev/nvidia0
"""


def test_files_that_gres_conf_names(tmp_path: Path) -> None:
    assert machine.gres_files(tmp_path, "n1") == []
    write(tmp_path / "run/slurm/conf/gres.conf", "Name=gpu File=/dev/served\n")
    assert machine.gres_files(tmp_path, "n1") == ["/dev/served"]
    write(tmp_path / "etc/slurm/gres.conf", GRES)
    shared = ["/dev/nvidia0", "/dev/nvidia1"]
    assert machine.gres_files(tmp_path, "n1") == [*shared, "/dev/nvidia2", "/dev/cap1", "/dev/cap2"]
    assert machine.gres_files(tmp_path, "n3") == [*shared, "/dev/nvidia7"]
    assert machine.gres_files(tmp_path, "n4") == shared


def test_files_that_are_missing(tmp_path: Path) -> None:
    write(tmp_path / "dev/nvidia0", "")
    assert machine.missing_files(["/dev/nvidia0", "/dev/nvidia1"], tmp_path) == ["/dev/nvidia1"]
    assert machine.missing_files([os.devnull, "/etc/passwd"], Path("/")) == ["/etc/passwd"]
