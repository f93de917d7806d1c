# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What dkms built and installed, as its files tell it.

``dkms status`` and ``modinfo`` unpack each module to say the same, which takes seconds for a driver of 100 MB. The
layout is that of dkms 3 on Debian: ``/var/lib/dkms/NAME/VERSION/KERNEL/ARCH/module`` holds what was built, the link
``/var/lib/dkms/NAME/kernel-KERNEL-ARCH`` names what is installed, and that is a copy in ``updates/dkms``.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

#: dkms's own state.
STATE = "var/lib/dkms"
#: The folders of architectures below that of a kernel. While dkms builds, and where it was killed or failed at it,
#: there is ``.tmp_ARCH_XXXXXX`` beside them, with what was done by then.
ARCHITECTURES = "[!.]*"
_INSTALLED = "updates/dkms"


def installed_version(root: Path, name: str, kernel: str) -> str | None:
    """The version of *name* that is installed for *kernel*, every file of it still as it was built; ``None``: ask dkms.

    ``None`` does not say that there is none: there may be another kind of dkms, or a file that differs.
    """
    links = sorted((root / STATE / name).glob(f"kernel-{kernel}-*"))
    if len(links) != 1 or not links[0].is_symlink():
        return None
    version, _, rest = str(links[0].readlink()).partition("/")
    if rest != f"{kernel}/{links[0].name.removeprefix(f'kernel-{kernel}-')}":
        return None
    if not (root / STATE / name / version / "source").is_symlink():  # dkms calls it broken, and builds it no more
        return None
    built = sorted((links[0] / "module").glob("*.ko*"))
    folder = root / "lib/modules" / kernel / _INSTALLED
    return version if built and all(_same(path, folder / path.name) for path in built) else None


def was_installed(root: Path, name: str, version: str, kernel: str) -> bool:
    """Whether dkms has installed this for *kernel*, and the link that says so is still there.

    A build by force removes what was built before and not the link. One that fails, or is killed, leaves it behind;
    dkms then refuses to install what is built next, as it takes that for installed already.
    """
    links = (root / STATE / name).glob(f"kernel-{kernel}-*")
    return any(link.is_symlink() and str(link.readlink()).startswith(f"{version}/{kernel}/") for link in links)


def is_what_loads(root: Path, name: str, kernel: str) -> bool:
    """Whether ``modprobe name`` takes the file that dkms installed, and none of that name from another folder."""
    try:
        lines = (root / "lib/modules" / kernel / "modules.dep").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    files = [Path(line.partition(":")[0]) for line in lines]
    found = [path for path in files if path.name.partition(".ko")[0].replace("-", "_") == name.replace("-", "_")]
    return len(found) == 1 and str(found[0].parent) == _INSTALLED


def _same(built: Path, installed: Path) -> bool:
    return installed.is_file() and filecmp.cmp(built, installed, shallow=False)
