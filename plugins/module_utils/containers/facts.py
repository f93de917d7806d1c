# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is asked of a machine about containers, in one answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import driver_libraries, machine


def gather(run: machine.Run, temporary_directory: str, root: Path = Path("/")) -> dict[str, Any]:
    """The answer, as the module ``container_runtime_info`` documents it.

    :raises OSError: a tool that every Debian has does not answer.
    """
    listing = root / "etc/apptainer/nvliblist.conf"
    text = listing.read_text(encoding="utf-8") if listing.exists() else ""
    cache = _output(run, "ldconfig", "-p")
    return {
        "architecture": _output(run, "dpkg", "--print-architecture").strip(),
        "versions": machine.packages(run),
        "user_namespaces": asdict(machine.namespaces(run, root)),
        "fuse": machine.has_fuse(root),
        "temporary_in_memory": machine.is_tmpfs(
            (root / "proc/self/mounts").read_text(encoding="utf-8"), temporary_directory
        ),
        "temporary_there": (root / temporary_directory.lstrip("/")).is_dir(),
        "driver": asdict(driver_libraries.compare(cache, driver_libraries.parse_list(text))),
        "nvliblist_added": driver_libraries.added(text),
        "device_specifications": machine.device_specifications(root),
    }


def _output(run: machine.Run, *command: str) -> str:
    code, stdout, stderr = run(command)
    if code != 0:
        last = (stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"expected an answer of '{' '.join(command)}', it failed with exit code {code}: {last}")
    return stdout
