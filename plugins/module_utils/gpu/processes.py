# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that compute on a GPU, and on which instance of it, as the driver tells them to root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .nvml import Library, NvmlCode, NvmlError

# NVML's word for "no instance" in a process entry.
_NONE = 0xFFFFFFFF
_CALLS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
_CANNOT_TELL = (NvmlCode.NOT_SUPPORTED, NvmlCode.FUNCTION_NOT_FOUND)


@dataclass(frozen=True)
class GpuProcess:
    """A process on a GPU. *gi_id* and *ci_id* are ``None`` where it uses the GPU as a whole."""

    pid: int
    name: str
    gi_id: int | None = None
    ci_id: int | None = None

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def processes_on(library: Library, pci_address: str, proc: Path = Path("/proc")) -> list[GpuProcess]:
    """The processes on a GPU, by process id.

    A driver that can't tell them gives an empty list: it still refuses to destroy what is in use.

    :raises NvmlError: a call failed.
    """
    device = library.call("nvmlDeviceGetHandleByPciBusId", pci_address)
    found: set[tuple[int, int | None, int | None]] = set()
    for call in _CALLS:
        try:
            listed = library.call(call, device)
        except NvmlError as error:
            if error.code not in _CANNOT_TELL:
                raise
            continue
        for one in listed:
            found.add((int(one.pid), _instance(one, "gpuInstanceId"), _instance(one, "computeInstanceId")))
    ordered = sorted(found, key=lambda entry: tuple(-1 if part is None else part for part in entry))
    return [GpuProcess(pid, process_name(pid, proc), gi_id, ci_id) for pid, gi_id, ci_id in ordered]


def process_name(pid: int, proc: Path = Path("/proc")) -> str:
    """The name of a process; of one that is gone a word that says so."""
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip() or "?"
    except OSError:
        return "a process that has ended"


def _instance(entry: object, field: str) -> int | None:
    value = getattr(entry, field, None)
    return None if value is None or int(value) == _NONE else int(value)
