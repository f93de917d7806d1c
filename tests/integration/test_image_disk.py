# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk image has everything that firmware, boot loader and kernel look for, where they look for it."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import mounts
from rig.process import RigError, log_for

from image import disk, system

SECTOR = 512


def said(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    work = tmp_path_factory.mktemp("overlay")
    with mounts.overlay((system.ensure(),), work / "upper", work / "work") as merged:
        disk.prepare_root(merged, "quiet")
        yield merged


@pytest.fixture(scope="module")
def raw(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as the machine will see it."""
    folder = tmp_path_factory.mktemp("disk")
    disk.write(root, folder / "image.qcow2", disk.Disk(4096), log_for("test-image-disk"))
    assert [path.name for path in folder.iterdir()] == ["image.qcow2"], "something of the build was left"
    info = json.loads(said("qemu-img", "info", "--output=json", folder / "image.qcow2"))
    assert info["virtual-size"] == 4096 << 20
    assert info["format-specific"]["data"]["compression-type"] == "zstd"
    said("qemu-img", "convert", "-O", "raw", folder / "image.qcow2", folder / "image.raw")
    return folder / "image.raw"


@pytest.fixture(scope="module")
def partitions(raw: Path) -> dict[int, tuple[int, int]]:
    """Number -> first sector and size in sectors."""
    table = json.loads(said("sfdisk", "--json", raw))["partitiontable"]
    assert table["label"] == "gpt"
    return {int(part["node"].removeprefix(str(raw))): (part["start"], part["size"]) for part in table["partitions"]}


def cut(raw: Path, partition: tuple[int, int], to: Path) -> Path:
    start, size = partition
    said("dd", "status=none", f"if={raw}", f"of={to}", f"bs={SECTOR}", f"skip={start}", f"count={size}", "conv=sparse")
    return to


def test_the_root_file_system_is_last_so_that_it_can_grow(partitions: dict[int, tuple[int, int]]) -> None:
    assert max(partitions, key=lambda number: partitions[number][0]) == 1
    assert set(partitions) == {1, 14, 15}


def test_bios_finds_the_core_and_the_core_the_rest_of_itself(raw: Path, partitions: dict[int, tuple[int, int]]) -> None:
    start, size = partitions[14]
    with raw.open("rb") as handle:
        sector = handle.read(SECTOR)
        handle.seek(start * SECTOR)
        core = handle.read(size * SECTOR)
    assert sector[510:] == b"\x55\xaa"
    assert struct.unpack_from("<Q", sector, 0x5C) == (start,)
    first, sectors = struct.unpack_from("<QH", core, SECTOR - 12)
    assert first == start + 1
    assert 0 < sectors < size


def test_uefi_finds_signed_loaders_and_they_the_menu(
    raw: Path, partitions: dict[int, tuple[int, int]], tmp_path: Path
) -> None:
    esp = cut(raw, partitions[15], tmp_path / "esp")
    for name, magic in {"BOOTX64.EFI": b"MZ", "grubx64.efi": b"MZ", "mmx64.efi": b"MZ"}.items():
        said("mcopy", "-i", esp, f"::/EFI/BOOT/{name}", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    menu = said("mtype", "-i", esp, "::/EFI/debian/grub.cfg")
    assert f"search --no-floppy --label {disk.LABEL} " in menu


def test_the_root_file_system_is_whole(
    root: Path, raw: Path, partitions: dict[int, tuple[int, int]], tmp_path: Path
) -> None:
    system_file = cut(raw, partitions[1], tmp_path / "root")
    said("e2fsck", "-fn", system_file)
    assert said("blkid", "-p", "-o", "value", "-s", "LABEL", system_file).strip() == disk.LABEL
    assert "quiet" in said("debugfs", "-R", "cat /boot/grub/grub.cfg", system_file)
    listed = said("debugfs", "-R", "stat /usr/bin/sudo", system_file)
    assert "Mode:  04755" in listed
    kernel = (root / "vmlinuz").readlink()
    assert "Type: regular" in said("debugfs", "-R", f"stat /{kernel}", system_file)


def test_what_can_not_boot_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    log = log_for("test-image-disk-refused")
    with pytest.raises(RigError, match="2048 MiB at least, found 100 MiB"):
        disk.write(tmp_path, tmp_path / "x.qcow2", disk.Disk(100), log)
    with pytest.raises(RigError, match="install grub-pc-bin in it"):
        disk.prepare_root(tmp_path)
    assert not (tmp_path / "x.qcow2").exists()
