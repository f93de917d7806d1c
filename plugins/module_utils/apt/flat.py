# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of packages made a repository that apt can read, with nothing but what every Debian machine has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

#: ``dpkg-deb --field FILE``: the control file's text. Raises ``PackageError``.
ReadControl = Callable[[Path], str]


class PackageError(ValueError):
    """A file is no Debian package, or can't be offered beside the others."""


@dataclass(frozen=True)
class Package:
    """A package file: its *control* text, size and checksum, and what names it."""

    path: Path
    control: str
    sha256: str
    size: int

    @property
    def identity(self) -> tuple[str, str, str]:
        """Name, version, architecture: apt takes two files alike in these for the same."""
        return _field(self.control, "Package"), _field(self.control, "Version"), _field(self.control, "Architecture")


def read_package(path: Path, control: ReadControl) -> Package:
    """The package in the file *path*.

    :raises PackageError: it is none.
    """
    text = control(path).strip("\n")
    made = Package(path, text, file_sha256(path), path.stat().st_size)
    for name, value in zip(("Package", "Version", "Architecture"), made.identity, strict=True):
        if not value:
            raise PackageError(f"{path.name}: expected a field {name} in the package's control file, found none")
    return made


def index_text(packages: Iterable[Package]) -> str:
    """The text of ``Packages``, in an order that depends on nothing but the packages.

    :raises PackageError: two of them are the same version of the same package.
    """
    seen: dict[tuple[str, str, str], Package] = {}
    for package in packages:
        other = seen.setdefault(package.identity, package)
        if other is not package:
            raise PackageError(
                f"{other.path.name} and {package.path.name} are both {' '.join(package.identity)}; leave one out"
            )
    return "\n".join(
        f"{package.control}\nFilename: ./{package.path.name}\nSize: {package.size}\nSHA256: {package.sha256}\n"
        for _, package in sorted(seen.items())
    )


def release_text(name: str, index: str, timestamp: float) -> str:
    """The text of ``Release`` for the repository *name* with the *index*; apt asks for a date."""
    data = index.encode()
    return (
        f"Origin: hpc-compute\nLabel: hpc-compute-{name}\nDate: {formatdate(timestamp, usegmt=True)}\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n"
    )


def content_name(files: Mapping[str, str]) -> str:
    """A name for exactly these files, given as checksums by file name."""
    text = "".join(f"{checksum} {name}\n" for name, checksum in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_names(names: Iterable[str]) -> None:
    """Refuse files that apt would not find.

    :raises PackageError: a name is no file name of a package.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_%:-]*\.deb", name):
            raise PackageError(f"expected names of package files, such as slurmd_24.11.5-4_amd64.deb, found {name!r}")


def file_sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _field(control: str, name: str) -> str:
    found = re.search(rf"(?mi)^{name}:[ \t]*(\S*)[ \t]*$", control)
    return found[1] if found else ""
