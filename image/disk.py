# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a root file system in a folder to a disk image that boots with BIOS and UEFI.

Nothing is mounted and no loop device is used, so it works in containers too. The partitions are those of Debian's own
cloud images: 14 for GRUB's core (BIOS), 15 for the EFI system partition, 1 for the root file system, which comes last
on the disk so that it can grow at the first boot.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.process import RigError, run

#: Debian packages of this machine that are needed.
TOOLS = ("dosfstools", "e2fsprogs", "fdisk", "mtools", "qemu-utils")
#: What the root file system itself must bring: boot loaders, so that they are Debian 13's whatever builds the image.
#: shim and the signed GRUB are what UEFI with Secure Boot starts; without it they work as well.
PACKAGES = ("grub-common", "grub-pc-bin", "grub2-common", "grub-efi-amd64-signed", "shim-signed")
LABEL = "hpc-root"

_SECTOR = 512
_MIB = 1 << 20
_BIOS = "21686148-6449-6E6F-744E-656564454649"
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
_ESP_MIB = 64
#: In sectors.
_BIOS_START, _BIOS_SIZE = 2048, _MIB // _SECTOR
_ESP_START, _ESP_SIZE = _BIOS_START + _BIOS_SIZE, _ESP_MIB * _MIB // _SECTOR
_ROOT_START = _ESP_START + _ESP_SIZE
#: The second table of GPT, at the end of the disk.
_GPT_END = 2048

#: What GRUB's core needs to reach the root file system; the rest it loads from there.
_MODULES = ("biosdisk", "part_gpt", "ext2", "search", "search_label", "normal", "configfile", "linux", "echo", "test")
_FIND_ROOT = f"search --no-floppy --label {LABEL} --set=root\n"
_EARLY = f"{_FIND_ROOT}set prefix=($root)/boot/grub\n"
_CONSOLES = "console=tty0 console=ttyS0,115200"


@dataclass(frozen=True)
class Disk:
    """Wanted properties of the image. *size_mib*: what the machine sees, 2 GiB at least. *options*: for the kernel."""

    size_mib: int
    options: str = ""
    compressed: bool = True


def prepare_root(root: Path, options: str = "") -> None:
    """Put into *root* what makes it boot from its disk: fstab, GRUB's settings, menu and modules.

    The menu is a plain one. The first kernel that is installed later has ``update-grub`` write Debian's own instead.
    """
    _write(root, "etc/fstab", f"LABEL={LABEL} / ext4 defaults,errors=remount-ro,x-systemd.growfs 0 1\n")
    # GRUB_DISABLE_LINUX_UUID: a file system keeps its label when it is copied, and Debian's menu then names that
    _write(
        root,
        "etc/default/grub.d/50-hpc-compute.cfg",
        f'GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX="{" ".join((_CONSOLES, options)).strip()}"\n'
        'GRUB_TERMINAL="console serial"\nGRUB_DISABLE_OS_PROBER=true\n',
    )
    _write(
        root,
        "boot/grub/grub.cfg",
        "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\n"
        f"set timeout=1\n{_FIND_ROOT}"
        "menuentry 'Debian' {\n"
        f"  linux /vmlinuz root=LABEL={LABEL} ro {_CONSOLES} {options}".rstrip()
        + "\n  initrd /initrd.img\n}\n",
    )
    modules = root / "usr/lib/grub/i386-pc"
    if not (modules / "boot.img").exists():
        raise RigError(f"expected GRUB for BIOS in the image, no {modules / 'boot.img'}: install grub-pc-bin in it")
    target = root / "boot/grub/i386-pc"
    target.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.mod", "*.lst"):
        for path in modules.glob(pattern):
            shutil.copy2(path, target / path.name)


def write(root: Path, target: Path, disk: Disk, log: Path) -> None:
    """Make the qcow2 file *target* from the root file system *root*, for which ``prepare_root`` was called.

    :raises RigError: the content doesn't fit *disk*, a tool failed, or the root file system lacks a boot loader.
    """
    if disk.size_mib < 2048:
        raise RigError(f"expected a disk of 2048 MiB at least, found {disk.size_mib} MiB")
    sectors = disk.size_mib * _MIB // _SECTOR
    root_sectors = sectors - _ROOT_START - _GPT_END
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        work = Path(folder)
        raw = work / "disk.raw"
        with raw.open("wb") as handle:
            handle.truncate(disk.size_mib * _MIB)
        _partition(raw, root_sectors, log)
        _install_bios(root, raw, work, log)
        _install_efi(root, raw, work, log)
        # features that GRUB's reader of this file system doesn't know are left out
        run(
            [
                *("mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-m", "1"),
                *("-O", "^metadata_csum_seed,^orphan_file"),
                *("-E", f"offset={_ROOT_START * _SECTOR},root_owner=0:0"),
                *("-d", root, raw, f"{root_sectors * _SECTOR // 1024}k"),
            ],
            log=log,
        )
        done = work / "done.qcow2"
        compression = ["-c", "-o", "compression_type=zstd"] if disk.compressed else []
        run(["qemu-img", "convert", "-q", "-W", "-m", "4", "-O", "qcow2", *compression, raw, done], log=log)
        done.rename(target)


@contextmanager
def mounted(image: Path, work: Path) -> Iterator[Path]:
    """The root file system of *image*, read-only, for the time of a ``with`` block.

    *work* has room for all of it as a plain file.

    :raises RigError: it is none of ``write``'s, or this machine has no loop device.
    """
    raw, root = work / "mounted.raw", work / "mounted"
    run(["qemu-img", "convert", "-O", "raw", image, raw])
    root.mkdir()
    # a machine's root file system needs no repair here: what is in the journal is in the image as well
    options = f"ro,loop,noload,offset={_ROOT_START * _SECTOR}"
    run(["mount", "-t", "ext4", "-o", options, raw, root])
    try:
        yield root
    finally:
        run(["umount", root])
        root.rmdir()
        raw.unlink()


def _partition(raw: Path, root_sectors: int, log: Path) -> None:
    table = (
        "label: gpt\n"
        f"{raw}14 : start={_BIOS_START}, size={_BIOS_SIZE}, type={_BIOS}\n"
        f"{raw}15 : start={_ESP_START}, size={_ESP_SIZE}, type={_ESP}\n"
        f"{raw}1 : start={_ROOT_START}, size={root_sectors}, type={_ROOT}\n"
    )
    run(["sfdisk", "--quiet", raw], stdin=table, log=log)


def _install_bios(root: Path, raw: Path, work: Path, log: Path) -> None:
    """Write GRUB's first sector and its core, as ``grub-install`` would with the disk as a device."""
    inside = root / "tmp/hpc-compute-grub"
    inside.mkdir()
    try:
        (inside / "early.cfg").write_text(_EARLY, encoding="ascii")
        path = "/" + str(inside.relative_to(root))
        run(
            [
                *("chroot", root, "grub-mkimage", "--format=i386-pc", "--prefix=/boot/grub"),
                *(f"--config={path}/early.cfg", f"--output={path}/core.img", *_MODULES),
            ],
            log=log,
        )
        core = bytearray((inside / "core.img").read_bytes())
    finally:
        shutil.rmtree(inside)
    boot = bytearray((root / "usr/lib/grub/i386-pc/boot.img").read_bytes())
    if len(core) > _BIOS_SIZE * _SECTOR:
        raise RigError(f"expected GRUB's core to fit {_BIOS_SIZE * _SECTOR} bytes, found {len(core)}")
    # boot.img: the sector where the core begins; the core's own first sector: where the rest of it does
    struct.pack_into("<Q", boot, 0x5C, _BIOS_START)
    struct.pack_into("<Q", core, _SECTOR - 12, _BIOS_START + 1)
    with raw.open("r+b") as handle:
        handle.write(boot[:440])  # what follows is the table of partitions
        handle.seek(_BIOS_START * _SECTOR)
        handle.write(core)


def _install_efi(root: Path, raw: Path, work: Path, log: Path) -> None:
    """Fill the EFI system partition with the loaders that Debian signed, where firmware looks by default."""
    loaders = {
        "BOOTX64.EFI": root / "usr/lib/shim/shimx64.efi.signed",
        "grubx64.efi": root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        "mmx64.efi": root / "usr/lib/shim/mmx64.efi.signed",
    }
    if missing := [str(path) for path in loaders.values() if not path.exists()]:
        raise RigError(f"expected the signed boot loaders in the image, missing: {', '.join(missing)}")
    menu = work / "grub.cfg"
    menu.write_text(f"{_EARLY}configfile $prefix/grub.cfg\n", encoding="ascii")
    esp = work / "esp"
    with esp.open("wb") as handle:
        handle.truncate(_ESP_SIZE * _SECTOR)
    run(["mkfs.vfat", "-F", "32", "-n", "ESP", esp], log=log)
    run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"], log=log)
    for name, path in loaders.items():
        run(["mcopy", "-i", esp, path, f"::/EFI/BOOT/{name}"], log=log)
    # where the signed GRUB was told to look
    run(["mcopy", "-i", esp, menu, "::/EFI/debian/grub.cfg"], log=log)
    run(
        [
            *("dd", "status=none", f"if={esp}", f"of={raw}", f"bs={_SECTOR}", f"seek={_ESP_START}"),
            *("conv=notrunc,sparse",),
        ],
        log=log,
    )


def _write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
