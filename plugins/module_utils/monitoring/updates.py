# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates that apt would install, from the package lists as they are; their age is told with them."""

from __future__ import annotations

import re

from .metrics import Metric, Sample, gauge
from .probe import CollectError, Probe

# "Inst linux-image-amd64 [6.12.48-1] (6.12.57-1 Debian-Security:13/stable-security [amd64])"; a package that is new
# has no version in brackets, and is no update but something that one needs.
_INST = re.compile(r"Inst (?P<package>\S+) \[[^\]]+\] \((?P<version>\S+) (?P<origins>[^)\[]*)")
_LISTS = "var/lib/apt/lists"


def collect(probe: Probe) -> list[Metric]:
    """Nothing on a machine without apt.

    :raises CollectError: apt does not answer.
    """
    if not probe.has("usr/bin/apt-get"):
        return []
    text = probe.ask("apt-get", "--simulate", "-o", "Debug::NoLocking=true", "dist-upgrade")
    found = [match for match in map(_INST.match, text.splitlines()) if match]
    security = sum("-security" in one["origins"].lower() for one in found)
    held = probe.ask("apt-mark", "showhold").split()
    return [
        Metric(
            "hpc_updates_pending",
            "Packages with an update that apt would install, by whether it comes from a security archive.",
            (
                Sample(len(found) - security, {"security": "false"}),
                Sample(security, {"security": "true"}),
            ),
        ),
        gauge("hpc_packages_held", "Packages that are held, and so get no update.", len(held)),
        *_age(probe),
    ]


def _age(probe: Probe) -> list[Metric]:
    folder = probe.root / _LISTS
    try:
        times = [path.stat().st_mtime for path in folder.iterdir() if path.is_file() and path.name != "lock"]
        # A list keeps the time of its archive; the directory has the time of the last fetch.
        newest = folder.joinpath("partial").stat().st_mtime if folder.joinpath("partial").is_dir() else 0.0
    except OSError as error:
        raise CollectError(f"expected apt's package lists in {folder}: {error.strerror or error}") from error
    return [
        gauge(
            "hpc_package_lists_timestamp_seconds",
            "When apt last fetched its package lists; 0 where it has none.",
            newest if times else 0,
        )
    ]
