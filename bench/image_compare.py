#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between the files of two images, by content, owner, mode and link; which of it is expected.

``PYTHONPATH=tests:. .venv/bin/python bench/image_compare.py A.qcow2 B.qcow2``, as root, from the repository's root.
It needs rsync and loop devices. Times of files are not looked at, nor the file system around them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path, PurePosixPath

from rig.process import run

from image import disk

#: Path -> why two builds from the same packages differ in it.
EXPECTED = {
    "/usr/lib/modules/*/updates/dkms/*": "signed with a key of one build, unless the site gave one",
    "/var/lib/dkms/*/*/*/*/module/*": "signed with a key of one build, unless the site gave one",
}


def differences(one: Path, other: Path) -> list[tuple[str, str]]:
    """What rsync would have to do, by path."""
    look = ["rsync", "--dry-run", "--checksum", "--recursive", "--links", "--perms", "--owner", "--group", "--devices"]
    look += ["--specials", "--hard-links", "--acls", "--xattrs", "--delete", "--out-format=%i\t/%n"]
    said = run([*look, f"{one}/", f"{other}/"]).stdout
    rows = (line.split("\t", 1) for line in said.splitlines() if "\t" in line)
    return [(path, what.strip()) for what, path in rows]


def main() -> int:
    """Compare, print; 1 where something differs that is not expected."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("images", type=Path, nargs=2, metavar="IMAGE")
    given = arguments.parse_args()
    unexpected = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        work = [Path(folder, name) for name in ("one", "other")]
        for mount in work:
            mount.mkdir()
        with disk.mounted(given.images[0], work[0]) as one, disk.mounted(given.images[1], work[1]) as other:
            found = differences(one, other)
    for path, what in found:
        why = next((why for name, why in EXPECTED.items() if PurePosixPath(path).match(name)), None)
        unexpected += why is None
        print(f"{path}: {why or f'NOT EXPECTED: {what}'}")
    print(f"{len(found)} paths differ, {unexpected} of them not expected")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
