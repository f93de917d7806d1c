# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest and the SBOMs of an image that Packer builds, from what its machine sends.

``PYTHONPATH=tests:. .venv/bin/python -m image.contents ARCHIVE FOLDER``, as the template calls it: *ARCHIVE* is a
tar file of what ``manifest`` reads of a system, and the files are put into *FOLDER*.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rig.process import RigError, run

from . import manifest


def write(archive: Path, folder: Path) -> None:
    """Write what *archive* tells into *folder*, which is made when it is not there.

    :raises RigError: the archive is none, or the list of packages is not in it.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        run(["tar", "-xf", archive, "-C", root, "--no-same-owner"])
        if not (root / "var/lib/dpkg/status").exists():
            raise RigError(f"expected dpkg's list of packages, var/lib/dpkg/status, in {archive}: it is not there")
        manifest.describe(root)
        folder.mkdir(parents=True, exist_ok=True)
        for path in (root / manifest.PLACE).iterdir():
            shutil.copyfile(path, folder / path.name)


def main() -> int:
    """Returns the exit code: 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description="List what is in an image that Packer builds.")
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    words = parser.parse_args()
    try:
        write(words.archive, words.folder)
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
