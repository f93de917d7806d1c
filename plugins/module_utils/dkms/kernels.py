# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kernels are installed on a machine; any root directory will do, so a made-up tree is a test."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Not linux-image-6.12.1-amd64, which is one kernel.
_NEWEST_IMAGE = re.compile(r"linux-image-(?![0-9])\S+")


@dataclass(frozen=True)
class Kernel:
    """An installed kernel by its release, as ``uname -r`` would print it; *headers*: modules can be built for it."""

    release: str
    headers: bool

    @property
    def headers_package(self) -> str:
        """Debian's package with the headers of exactly this kernel."""
        return f"linux-headers-{self.release}"


def installed_kernels(root: Path = Path("/")) -> list[Kernel]:
    """Kernels that this machine may boot, by version. A directory that a removed kernel left behind is none.

    The kernel that runs counts only when it is installed: in a container or a chroot it is another machine's.
    """
    folder = root / "lib/modules"
    found = [
        Kernel(path.name, (path / "build/include").is_dir() or _built_in_root(root, path))
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (path / "kernel").is_dir() or (root / "boot" / f"vmlinuz-{path.name}").exists()
    ]
    return sorted(found, key=lambda kernel: sort_key(kernel.release))


def headers_packages(kernels: Sequence[Kernel], image_packages: Collection[str]) -> list[str]:
    """Debian's packages with what modules are built against.

    The headers of each kernel that lacks them; and, as a kernel that is upgraded needs new ones, beside each of
    *image_packages* that always brings the newest kernel (``linux-image-amd64``) the one that brings its headers.
    """
    newest = [name.replace("image", "headers", 1) for name in image_packages if _NEWEST_IMAGE.fullmatch(name)]
    return [*(kernel.headers_package for kernel in kernels if not kernel.headers), *sorted(newest)]


def sort_key(release: str) -> list[tuple[int, str]]:
    """Order releases by their numbers: 6.9 before 6.12."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", release)]


def _built_in_root(root: Path, path: Path) -> bool:
    """The same where ``build`` is an absolute link, which leads out of a root that is not this machine's."""
    link = path / "build"
    if not link.is_symlink():
        return False
    target = link.readlink()
    return target.is_absolute() and (root / target.relative_to("/") / "include").is_dir()
