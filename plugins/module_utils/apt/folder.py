# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repositories that are made of package files, on a machine: /var/lib/hpc-compute/apt/NAME.

Each content has a folder of its own beside that name, which is a link to the present one: apt sees the old packages or
the new ones, never a mixture. A run that was killed leaves a folder that nobody points to, which the next one removes.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .flat import (
    PackageError,
    ReadControl,
    check_names,
    content_name,
    file_sha256,
    index_text,
    read_package,
    release_text,
)
from .repositories import Change, Machine, put_in_place, refresh
from .sources import Repository, RepositoryError

PLACE = "var/lib/hpc-compute/apt"
#: In a folder whose packages apt has read.
_KNOWN = ".known"


@dataclass(frozen=True)
class Offer:
    """The repository *name*, to hold exactly *files* (their SHA-256 by file name)."""

    name: str
    files: Mapping[str, str]
    root: Path = Path("/")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", self.name):
            raise RepositoryError(f"expected a name of small letters, digits, dots and hyphens, found {self.name!r}")
        if not self.files:
            raise RepositoryError(f"repository {self.name!r}: expected package files (.deb), found none")
        check_names(self.files)

    @property
    def link(self) -> Path:
        return self.root / PLACE / self.name

    @property
    def folder(self) -> Path:
        """Where this content is, once it is complete."""
        return self.root / PLACE / f".{self.name}@{content_name(self.files)}"

    @property
    def repository(self) -> Repository:
        return Repository(self.name, (f"file:/{PLACE}/{self.name}",), ("./",), trusted=True)


def present_files(offer: Offer) -> list[str]:
    """File names of the packages that are offered now."""
    return sorted(path.name for path in offer.link.glob("*.deb"))


def is_in_place(offer: Offer) -> bool:
    """Whether exactly these files are offered; a file that was cut short since is seen."""
    if not (offer.link.is_symlink() and offer.link.resolve() == offer.folder.resolve()):
        return False
    sizes = dict(
        re.findall(r"(?m)^Filename: \./(\S+)\nSize: (\d+)$", (offer.folder / "Packages").read_text(encoding="utf-8"))
        if (offer.folder / "Packages").is_file()
        else []
    )
    return (
        (offer.folder / _KNOWN).exists()
        and set(sizes) == set(offer.files) == set(present_files(offer))
        and all((offer.folder / name).stat().st_size == int(size) for name, size in sizes.items())
    )


def to_transfer(offer: Offer) -> list[str]:
    """The files that this machine does not have in the present repository, by name and content."""
    return sorted(
        name
        for name, checksum in offer.files.items()
        if not (offer.link / name).is_file() or file_sha256(offer.link / name) != checksum
    )


def replace(machine: Machine, offer: Offer, arrived: Path | None, control: ReadControl) -> list[Change]:
    """Offer these files, those that were transferred lying in *arrived*, and have apt read them; the files of apt's
    that changed.

    :raises PackageError: a file is no package.
    :raises RepositoryError: apt does not take it.
    Either way what was offered before still is.
    """
    old = offer.link.resolve() if offer.link.is_symlink() else None
    if not is_in_place(offer):
        _remove_leftovers(offer, keep=old)
        _fill(offer, arrived, control)
        _point(offer.link, offer.folder)
    known = offer.folder / _KNOWN
    try:
        changes = put_in_place(machine, [offer.repository], check=False)
        if not changes and not known.exists():
            refresh(machine, offer.repository)
    except (RepositoryError, OSError):
        if old and old.exists():
            _point(offer.link, old)
        else:
            offer.link.unlink()
        raise
    known.touch()
    _remove_leftovers(offer, keep=offer.folder.resolve())
    return changes


def _fill(offer: Offer, arrived: Path | None, control: ReadControl) -> None:
    part = offer.folder.with_name(f"{offer.folder.name}.part")
    part.mkdir(parents=True)
    try:
        for name, checksum in offer.files.items():
            source = arrived / name if arrived and (arrived / name).is_file() else offer.link / name
            if not source.is_file():
                raise PackageError(f"{name}: expected it to have been copied here, found no such file")
            shutil.copyfile(source, part / name)
            (part / name).chmod(0o644)
            if file_sha256(part / name) != checksum:
                raise PackageError(
                    f"{name}: expected the file with checksum {checksum}, found another; copied while it changed?"
                )
        packages = [read_package(part / name, control) for name in sorted(offer.files)]
        index = index_text(packages)
        (part / "Packages").write_text(index, encoding="utf-8")
        (part / "Release").write_text(release_text(offer.name, index, time.time()), encoding="utf-8")
    except BaseException:
        shutil.rmtree(part)
        raise
    if offer.folder.exists():
        shutil.rmtree(offer.folder)
    part.rename(offer.folder)


def _point(link: Path, folder: Path) -> None:
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(folder.name)
    part.replace(link)


def _remove_leftovers(offer: Offer, keep: Path | None) -> None:
    for folder in offer.link.parent.glob(f".{offer.name}@*"):
        if folder.resolve() != keep:
            shutil.rmtree(folder)
