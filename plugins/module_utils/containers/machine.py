# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers need of a machine: user namespaces, FUSE, the packages that are there, device specifications."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: exit code, stdout, stderr
Run = Callable[[Sequence[str]], tuple[int, str, str]]

#: As user "nobody": root may make namespaces where others may not.
_TRIAL = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("unshare", "--user", "--map-root-user", "--mount", "true"),
)
#: Settings that forbid user namespaces, and the value that does; Debian's kernel has the first two, Ubuntu's the third.
_SETTINGS = (
    ("kernel.unprivileged_userns_clone", "0"),
    ("user.max_user_namespaces", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
)
CDI_FOLDERS = ("etc/cdi", "var/run/cdi", "run/cdi")
PACKAGES = ("apptainer", "apptainer-suid")


@dataclass(frozen=True)
class Namespaces:
    """Whether an ordinary user can make a user namespace; where not, *reason* says why and what to do."""

    available: bool
    reason: str


def namespaces(run: Run, root: Path = Path("/")) -> Namespaces:
    """Try it, and look for the setting where it fails."""
    code, _, stderr = run(_TRIAL)
    if code == 0:
        return Namespaces(True, "")
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    said = f"'unshare --user' as an ordinary user failed with exit code {code}: {last}"
    for name, forbidding in _SETTINGS:
        path = root / "proc/sys" / name.replace(".", "/")
        try:
            value = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            continue
        if value == forbidding:
            wanted = {"0": "1", "1": "0"}[forbidding] if name != "user.max_user_namespaces" else "e.g. 15000"
            return Namespaces(False, f"{said}; {name} is {value}, set it to {wanted} in /etc/sysctl.d")
    return Namespaces(False, f"{said}; look for a limit of the service manager, of AppArmor or of the hypervisor")


def packages(run: Run) -> dict[str, str]:
    """Version of each package that is completely installed; the empty text for the others."""
    layout = "${db:Status-Status} ${Package} ${Version}\\n"
    # 1: some are unknown to dpkg, hence not installed
    code, stdout, stderr = run(("dpkg-query", "--show", "--showformat", layout, *PACKAGES))
    if code not in (0, 1):
        last = (stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"expected dpkg-query to tell the installed packages, it failed with exit code {code}: {last}")
    found = dict.fromkeys(PACKAGES, "")
    found.update(re.findall(r"(?m)^installed (\S+) (\S+)$", stdout))
    return found


def has_fuse(root: Path = Path("/")) -> bool:
    """Whether images can be mounted by an ordinary user; else Apptainer unpacks each image before it runs it."""
    return (root / "dev/fuse").exists()


def is_tmpfs(mounts: str, folder: str) -> bool:
    """Whether *folder* lies in memory, by the text of ``/proc/self/mounts``."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, place, found, *_ = line.split(" ")
        inside = folder == place or folder.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, found
    return kind in ("tmpfs", "ramfs")


def device_specifications(root: Path = Path("/")) -> list[str]:
    """The files of the Container Device Interface, the more important folder first."""
    seen: dict[Path, str] = {}
    for folder in CDI_FOLDERS:
        for path in sorted((root / folder).glob("*")):
            if path.suffix in (".yaml", ".yml", ".json"):
                seen.setdefault(path.resolve(), f"/{path.relative_to(root)}")
    return list(seen.values())
