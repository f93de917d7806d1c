#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image costs: the time of ``./run image`` beside that of the packages alone, its size, what takes the space.

Run it as root from the repository's root: ``PYTHONPATH=tests:. .venv/bin/python bench/image_build.py --vars FILE``.
Both ways begin with nothing but downloaded packages, install the same ones and end with the same kind of disk.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rig import archive, base, debs, environment, mounts, nspawn
from rig.paths import CACHE
from rig.process import RigError, log_for, run
from rig.progress import step

from image import build, disk, manifest, system

MOST_RATIO, MOST_SECONDS, MOST_GB = 1.3, 15 * 60, 1.3
#: Part -> how a package's source begins. The first that fits.
PARTS = {
    "kernel": ("linux-signed-amd64", "initramfs-tools", "linux-base", "klibc", "kmod", "dracut"),
    "headers and compiler": (
        "linux",
        "gcc",
        "binutils",
        "glibc",
        "make",
        "dkms",
        "dpkg",
        "patch",
        "isl",
        "mpc",
        "mpfr4",
    ),
    "NVIDIA driver": ("nvidia", "firmware-nvidia", "update-glx", "glx", "libnvidia", "libglvnd", "mesa"),
    "Slurm and munge": ("slurm-wlm", "munge"),
    "Apptainer": ("apptainer", "squashfs", "squashfuse", "fuse", "gocryptfs", "e2fsprogs"),
    "OpenMPI, UCX and what they link": (
        "openmpi",
        "ucx",
        "pmix",
        "rocm",
        "hip",
        "rocr",
        "llvm",
        "rdma-core",
        "libfabric",
    ),
    "monitoring": ("prometheus", "golang", "smartmontools", "ipmitool", "nvme"),
    "boot loaders": ("grub", "shim", "efibootmgr", "mokutil"),
    "Python and cloud-init": ("python", "cloud", "netplan"),
}
_REST = "the rest of Debian"


def image_way(output: Path, variables: list[Path]) -> float:
    """``./run image`` with a base system that is built, too; its seconds."""
    mounts.remove_tree(system.ensure())
    start = time.monotonic()
    build.build(build.Wanted(output, variables=variables))
    return time.monotonic() - start


def plain_way(output: Path, made: Path, work: Path) -> float:
    """The packages of the image *made* by mmdebstrap and apt alone, and the disk; its seconds."""
    log = log_for("bench-image-plain")
    with disk.mounted(made, work) as root:
        packages = {name: version for name, version in manifest.packages(root).items() if not name.startswith("hpc-")}
        sources = work / "sources"
        shutil.copytree(root / "etc/apt", sources, symlinks=True)
    root = work / "plain/root"
    root.parent.mkdir()
    start = time.monotonic()
    with step("mmdebstrap: the base system"):
        base.bootstrap(root, system.PACKAGES, archive.of_this_machine(), log)
    with step(f"apt: the rest of {len(packages)} packages"):
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        policy.chmod(0o755)
        shutil.copytree(sources, root / "etc/apt", symlinks=True, dirs_exist_ok=True)
        debs.put_into(root)
        files = [path for path in (CACHE / "apptainer").glob("apptainer_*.deb") if "apptainer" in packages]
        for path in files:
            shutil.copy2(path, root / "var/cache" / path.name)
        names = [name for name in packages if name != "apptainer"] + [f"/var/cache/{path.name}" for path in files]
        nspawn.in_root(root, ["apt-get", "-q", "update"], log)
        nspawn.in_root(root, ["apt-get", "-q", "-y", "--no-install-recommends", "install", *names], log)
        nspawn.in_root(root, ["apt-get", "clean"], log)
    with step("the disk, compressed"):
        disk.prepare_root(root)
        disk.write(root, output, disk.Disk(20 * 1024), log)
    return time.monotonic() - start


def table(root: Path) -> list[tuple[str, float, float]]:
    """Part, megabytes, megabytes compressed as in the image; the largest first."""
    show = "${db:Status-Status}\t${source:Package}\t${binary:Package}\n"
    said = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat", show]).stdout
    rest = {path for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    files: dict[str, set[Path]] = {part: set() for part in (*PARTS, _REST)}
    for status, source, name in (line.split("\t") for line in said.splitlines()):
        if status == "installed":
            listed = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--listfiles", name]).stdout.splitlines()
            own = {(root / line.lstrip("/")).parent.resolve() / Path(line).name for line in listed} & rest
            part = next((part for part, names in PARTS.items() if source.startswith(names)), _REST)
            files[part] |= own
            rest -= own
    files["modules built here"] = {path for path in rest if "dkms" in path.parts}
    files["initial file systems"] = {path for path in rest if path.name.startswith("initrd.img")}
    rest -= files["modules built here"] | files["initial file systems"]
    files["of no package (caches, databases)"] = rest
    rows = [(part, *_sizes(root, paths)) for part, paths in files.items()]
    return sorted(rows, key=lambda row: -row[2])


def _sizes(root: Path, paths: set[Path]) -> tuple[float, float]:
    inodes = {path.stat().st_ino: path for path in paths}
    names = "\0".join(str(path.relative_to(root)) for path in sorted(inodes.values()))
    pack = ["tar", "--create", f"--directory={root}", "--null", "--verbatim-files-from", "--files-from=-"]
    # in pieces of a cluster, as the image is
    packed = subprocess.run(pack, input=names.encode(), capture_output=True, check=True).stdout
    with tempfile.NamedTemporaryFile() as handle:
        handle.write(packed)
        handle.flush()
        done = Path(f"{handle.name}.qcow2")
        run(["qemu-img", "convert", "-c", "-o", "compression_type=zstd", "-O", "qcow2", handle.name, done])
        size = done.stat().st_size
        done.unlink()
    return len(packed) / 1e6, size / 1e6


def main() -> int:
    """Build both ways, print; the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vars", type=Path, action="append", default=[], metavar="FILE")
    arguments.add_argument("--only-table", type=Path, metavar="IMAGE", help="the space in one that is there")
    given = arguments.parse_args()
    environment.ensure()
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            work = Path(folder)
            made = given.only_table or work / "image.qcow2"
            good = True
            if not given.only_table:
                ours = image_way(made, given.vars)
                plain = plain_way(work / "plain.qcow2", made, work)
                good = ours <= MOST_RATIO * plain and ours <= MOST_SECONDS
                print(f"./run image {ours:.0f} s; packages and disk alone {plain:.0f} s; ratio {ours / plain:.2f}")
            size = made.stat().st_size / 1e9
            print(f"size {size:.2f} GB")
            with disk.mounted(made, work) as root:
                for part, plain_size, packed in table(root):
                    print(f"| {part} | {plain_size:.0f} | {packed:.0f} |")
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if good and size < MOST_GB else 1


if __name__ == "__main__":
    sys.exit(main())
