# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in an image: written into it and beside it, for people and for programs that look for vulnerable packages."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rig.paths import REPO, VENV
from rig.process import log_for, run

#: debsbom writes packages in an order of Python's sets: the same in each build.
_ENVIRONMENT = {**os.environ, "PYTHONHASHSEED": "0"}
#: In the image.
PLACE = Path("usr/share/hpc-compute")


@dataclass(frozen=True)
class Described:
    """How much was found: the number of installed *packages*."""

    packages: int


def describe(root: Path) -> Described:
    """Write the manifest and the SBOMs (SPDX 2.3, CycloneDX) of the system in *root* into it.

    :raises RigError: dpkg or debsbom could not read it; the message carries the end of the log.
    """
    found = packages(root)
    place = root / PLACE
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**_origin(), **_contents(root, found)}, indent=2) + "\n"
    (place / "manifest.json").write_text(text, encoding="utf-8")
    _sboms(root, place, text)
    return Described(len(found))


def publish(root: Path, output: Path) -> None:
    """Copy what ``describe`` wrote into *root* beside the image *output*, in place of what lies there."""
    for name, beside in zip(_NAMES, _beside(output), strict=True):
        shutil.copyfile(root / PLACE / name, beside)


def checksum(output: Path) -> None:
    """Write ``FILE.sha256`` beside the image and what goes with it, in the form that ``sha256sum --check`` reads."""
    lines = []
    for path in (output, *_beside(output)):
        with path.open("rb") as handle:
            lines.append(f"{hashlib.file_digest(handle, 'sha256').hexdigest()}  {path.name}\n")
    _sums(output).write_text("".join(lines), encoding="utf-8")


def files(output: Path) -> list[Path]:
    """All that is written beside the image *output*."""
    return [*_beside(output), _sums(output)]


_NAMES = ("manifest.json", "sbom.spdx.json", "sbom.cdx.json")


def _beside(output: Path) -> list[Path]:
    return [output.with_suffix(f".{name}") for name in _NAMES]


def _sums(output: Path) -> Path:
    return output.with_name(f"{output.name}.sha256")


def packages(root: Path) -> dict[str, str]:
    """Installed packages with their versions."""
    show = "${db:Status-Status}\t${binary:Package}\t${Version}\n"
    said = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat", show]).stdout
    rows = (line.split("\t") for line in said.splitlines())
    return {name: version for status, name, version in rows if status == "installed"}


def _contents(root: Path, packages: dict[str, str]) -> dict[str, Any]:
    modules = root / "usr/lib/modules"
    return {
        "kernels": sorted(path.name for path in modules.iterdir() if (path / "modules.dep").exists()),
        "packages": packages,
    }


def _origin() -> dict[str, Any]:
    """The collection by which it was made. *commit* is null outside of a clone."""
    galaxy = (REPO / "galaxy.yml").read_text(encoding="utf-8")
    # a whole reader of YAML is not there before the virtual environment is
    fields = dict(re.findall(r"^(namespace|name|version): *(\S+)$", galaxy, flags=re.MULTILINE))
    commit = run(["git", "-C", REPO, "describe", "--always", "--dirty", "--abbrev=40"], check=False)
    return {
        "collection": f"{fields['namespace']}.{fields['name']}",
        "version": fields["version"],
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
    }


def _newest_package(root: Path) -> datetime:
    """When the newest of the installed packages was made: the state of the archive that an image is made from."""
    changelogs = (path.stat().st_mtime for path in root.glob("usr/share/doc/*/changelog.Debian.gz"))
    return datetime.fromtimestamp(max(changelogs, default=0), UTC)


def _sboms(root: Path, place: Path, text: str) -> None:
    """*text*: of the manifest. Names and date follow from the content: the same gives the same files."""
    identity = uuid.uuid5(uuid.NAMESPACE_OID, text)
    words: list[str | Path] = ["generate", "--root", root, "--distro-name", "hpc-compute", "--out", place / "sbom"]
    words += ["--spdx-namespace", f"urn:uuid:{identity}", "--cdx-serialnumber", str(identity)]
    words += ["--timestamp", _newest_package(root).isoformat(timespec="seconds")]
    run([VENV / "bin/debsbom", *words], log=log_for("image-sbom"), env=_ENVIRONMENT)
