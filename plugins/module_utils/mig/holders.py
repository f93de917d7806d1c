# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds a GPU open: the processes that keep the driver from changing its mode or resetting it.

They need not compute: a monitor that has called ``nvmlInit`` is enough. NVML does not tell of them, /proc does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..gpu.processes import process_name

#: Services that are known to keep GPUs open.
KNOWN_SERVICES = (
    "nvidia-persistenced.service",
    "nvidia-dcgm.service",
    "dcgm-exporter.service",
    "nvidia-dcgm-exporter.service",
    "slurmd.service",
    "nvsm.service",
)

_UNIT = re.compile(r"([^/]+\.service)(?:/|$)")


@dataclass(frozen=True)
class Holder:
    """A process that has device files of the driver open. *service*: the systemd unit it runs in, if any."""

    pid: int
    name: str
    service: str | None = None

    def __str__(self) -> str:
        unit = "" if self.service is None else f" of {self.service}"
        return f"{self.name} (pid {self.pid}{unit})"


def holders(
    minor: int | None, proc: Path = Path("/proc"), dev: Path = Path("/dev"), but: Sequence[int] = ()
) -> list[Holder]:
    """The processes that have the GPU with device *minor* open (any GPU where it is ``None``), without those in *but*.

    ``/dev/nvidiactl`` alone does not count: it belongs to no GPU. Processes that can't be looked into (without root) or
    end meanwhile are left out.
    """
    number = r"\d+" if minor is None else str(minor)
    wanted = re.compile(rf"{re.escape(str(dev))}/nvidia{number}")
    found = []
    for directory in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        pid = int(directory.name)
        if pid not in but and any(wanted.fullmatch(target) for target in _open_files(directory)):
            found.append(Holder(pid, process_name(pid, proc), service_of(pid, proc)))
    return found


def service_of(pid: int, proc: Path = Path("/proc")) -> str | None:
    """The systemd service a process belongs to, by its control group."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        units = _UNIT.findall(line.split(":", 2)[-1])
        if units:
            return str(units[-1])
    return None


def advice(found: Sequence[Holder]) -> str:
    """What to do about these holders, as the end of a sentence."""
    if not found:
        return "no process was found that has the GPU open: look for one in a container or another namespace"
    services = sorted({holder.service for holder in found if holder.service in KNOWN_SERVICES})
    text = f"it is held open by {', '.join(map(str, found))}"
    if services:
        return f"{text}: let {' and '.join(services)} be stopped meanwhile (stop_services), or stop them by hand"
    return f"{text}: end what uses the GPU first"


def _open_files(directory: Path) -> list[str]:
    try:
        return [str(link.readlink()) for link in (directory / "fd").iterdir()]
    except OSError:
        return []  # it has ended, or is not ours to look into
