# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of BeeGFS: which packages a client is made of, and for which kernels its module is known to build."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

#: Packages that make a machine a BeeGFS server, or install one. This collection never installs them.
SERVER_PACKAGES = (
    "beegfs-mgmtd",
    "beegfs-meta",
    "beegfs-storage",
    "beegfs-mon",
    "beegfs-mon-grafana",
    "beegfs-remote",
    "beegfs-sync",
    "beegfs-watch",
    "beeond",
)
#: The client that builds its module when it starts, for the running kernel. It can't be installed beside the DKMS one.
AUTOBUILD_PACKAGE = "beegfs-client"
#: In 7.4 the module asks beegfs-helperd for addresses and hands it its log; beegfs-ctl is in beegfs-utils.
_PACKAGES_7 = ("beegfs-client-dkms", "beegfs-helperd", "beegfs-utils")
#: 8.0 dropped both: mount.beegfs resolves names, the kernel has the log; the command ``beegfs`` is in beegfs-tools.
_PACKAGES_8 = ("beegfs-client-dkms", "beegfs-tools")
_ONCE_CLIENTS = ("beegfs-helperd", "beegfs-common", "beegfs-utils", "beegfs-tools")

#: (release, newest kernel). From this release on, the module is known to build up to that kernel: from BeeGFS's release
#: notes (7.4.6: up to 6.11; 8.3: 6.12 and 6.14) and from builds against Debian 13's 6.12 (7.4.7, 8.1.0, 8.3.1).
_KERNELS = (
    ((7, 4, 0), (6, 11)),
    ((7, 4, 7), (6, 12)),
    ((8, 0, 0), (6, 11)),
    ((8, 1, 0), (6, 12)),
    ((8, 3, 0), (6, 14)),
)
#: The series this collection knows, and the directory of each in BeeGFS's repository (for 7.4: of each patch release).
SERIES = {
    "7.4": "beegfs_7.4.7",
    "8.0": "beegfs_8.0",
    "8.1": "beegfs_8.1",
    "8.2": "beegfs_8.2",
    "8.3": "beegfs_8.3",
    "8.4": "beegfs_8.4",
}


class ReleaseError(ValueError):
    """It names no release of BeeGFS that this collection knows."""


@dataclass(frozen=True, order=True)
class Release:
    """A release; without *patch* the newest of its series."""

    major: int
    minor: int
    patch: int | None = None

    @classmethod
    def parse(cls, text: str) -> Release:
        """Read ``8.3`` or ``8.3.1``.

        :raises ReleaseError: it is neither, or of a series that is not known.
        """
        match = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if not match or f"{match[1]}.{match[2]}" not in SERIES:
            raise ReleaseError(
                f"beegfs_client_version: expected a series ({', '.join(SERIES)}) or a release of one, such as 8.3.1, "
                f"in quotes; found {text!r}"
            )
        return cls(int(match[1]), int(match[2]), int(match[3]) if match[3] else None)

    def __str__(self) -> str:
        return self.series if self.patch is None else f"{self.series}.{self.patch}"

    @property
    def series(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def has_helperd(self) -> bool:
        """Whether a client needs the daemon beegfs-helperd."""
        return self.major < 8

    @property
    def packages(self) -> tuple[str, ...]:
        """What a client is made of, without the headers for its module."""
        return _PACKAGES_7 if self.has_helperd else _PACKAGES_8

    @property
    def versioned_packages(self) -> tuple[str, ...]:
        """Packages that go up and down together; those of 7.4 depend on beegfs-common of the very same version."""
        return (*self.packages, *(("beegfs-common",) if self.has_helperd else ()))

    @property
    def glob(self) -> str:
        """Matches the versions of its Debian packages, with or without an epoch and a revision."""
        return f"*{self}.*" if self.patch is None else f"*{self}*"

    def is_version(self, text: str) -> bool:
        """Whether *text* is the version of a Debian package of it."""
        end = r"\." if self.patch is None else r"(?![0-9.])"
        return re.match(rf"(\d+:)?{re.escape(str(self))}{end}", text) is not None

    @property
    def directory(self) -> str:
        """Where BeeGFS's repository keeps it."""
        return f"beegfs_{self}" if self.has_helperd and self.patch is not None else SERIES[self.series]

    @property
    def newest_kernel(self) -> tuple[int, int]:
        """The newest kernel for which its module is known to build."""
        wanted = (self.major, self.minor, 999 if self.patch is None else self.patch)
        return max((since, kernel) for since, kernel in _KERNELS if since <= wanted)[1]

    def unsupported(self, kernels: Collection[str]) -> list[str]:
        """Those of *kernels* that are newer than any for which the module is known to build."""
        return [release for release in kernels if _numbers(release) > self.newest_kernel]

    def satisfied(self, installed: Mapping[str, str], extra: Collection[str]) -> bool:
        """Whether *installed* (name to version) has all that it is made of, and of this release."""
        return all(self.is_version(installed.get(name, "")) for name in self.packages) and all(
            name in installed for name in extra
        )

    def foreign_packages(self, extra: Collection[str]) -> list[str]:
        """Client packages of other series, which this one has no use for."""
        kept = {*self.versioned_packages, *extra}
        return [name for name in _ONCE_CLIENTS if name not in kept]


def _numbers(kernel: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", kernel)
    return (int(match[1]), int(match[2])) if match else (0, 0)
