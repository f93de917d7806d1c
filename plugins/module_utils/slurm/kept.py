# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration that slurmd last started with, kept on the node until another one has proved itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Below the root of the machine.
PLACE = Path("var/lib/hpc-compute/slurmd")


@dataclass(frozen=True)
class Kept:
    """Copies of *configuration* (files, and folders with all that is in them) below *root*.

    ``kept`` has what slurmd started with, ``refused`` what it was last found not to start with.
    """

    configuration: Sequence[Path]
    root: Path = Path("/")

    @property
    def kept(self) -> Path:
        """The copies; the ones before them where a run was killed while it replaced them."""
        place = self.root / PLACE / "kept"
        return place if place.is_dir() else self.root / PLACE / "kept.before"

    @property
    def refused(self) -> Path:
        return self.root / PLACE / "refused"

    def present(self) -> dict[str, Path]:
        """The files of the configuration as they are now, by their path below the root."""
        found = {}
        for place in self.configuration:
            path = self.root / str(place).lstrip("/")
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found[str(file.relative_to(self.root))] = file
        return found

    def differences(self) -> list[str]:
        """Files that are not as they were kept, in order; none where nothing is kept."""
        return list(self._different()) if self.kept.is_dir() else []

    def save(self) -> bool:
        """Keep the files as they are; whether that was something new."""
        if self.kept.is_dir() and not self.differences():
            return False
        place = self.root / PLACE
        for leftover in ("kept.new", "kept.before"):
            if (place / leftover).exists() and (place / leftover) != self.kept:
                shutil.rmtree(place / leftover)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, path in self.present().items():
            _copy(path, place / "kept.new" / name)
        (place / "kept.new").mkdir(exist_ok=True)
        if (place / "kept").exists():
            (place / "kept").rename(place / "kept.before")
        (place / "kept.new").rename(place / "kept")
        shutil.rmtree(place / "kept.before", ignore_errors=True)
        return True

    def restore(self) -> list[str]:
        """Put back what was kept, and what is there now beside it, as refused; the files that changed."""
        changed = self.differences()
        if not changed:
            return []
        shutil.rmtree(self.refused, ignore_errors=True)
        self.refused.mkdir(mode=0o700, parents=True)
        for name in changed:
            now, before = self.root / name, self.kept / name
            if now.is_file():
                _copy(now, self.refused / name)
            if before.is_file():
                part = now.with_name(f".{now.name}.part")
                _copy(before, part)
                part.replace(now)
            else:
                now.unlink()
        return changed

    def _different(self) -> Iterator[str]:
        kept = {str(path.relative_to(self.kept)) for path in self.kept.rglob("*") if path.is_file()}
        present = self.present()
        for name in sorted(kept | set(present)):
            both = name in kept and name in present
            if not both or (self.kept / name).read_bytes() != present[name].read_bytes():
                yield name


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    known = source.stat()
    os.chown(target, known.st_uid, known.st_gid)
