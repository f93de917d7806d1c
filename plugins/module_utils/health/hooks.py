# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is looked at before and after each job: only what that job uses, and never what another one does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..gpu import nvml
from ..gpu.inventory import read_inventory
from ..gpu.model import Gpu, GpuInstance
from ..gpu.nvml import Library, NvmlError
from ..gpu.processes import GpuProcess, processes_on
from .job import Job, belongs_to, devices_of, job_of, read_map
from .machine import missing_files
from .model import drain_reason
from .probe import answer, ask
from .run import Node
from .settings import Settings

_PAUSE_S = 0.5

#: Says something to the journal.
Log = Callable[[str], None]
#: Ends a process, given its id.
Kill = Callable[[int], None]


def prolog(node: Node, environ: Mapping[str, str], log: Log) -> str:
    """Whether the device files of a job's GPUs are there; why the node is to be drained, empty when it is not to be."""
    job = job_of(environ)
    if not job.visible:
        return ""
    devices = read_map(node.root)
    known = devices_of(job, devices)
    if not known:
        if devices:
            log(f"prolog of {job}: none of its devices {','.join(job.visible)} is in the map of this node's")
        return ""
    missing = missing_files(dict.fromkeys(file for one in known for file in one.files), node.root)
    if not missing:
        return ""
    return drain_reason(["prolog"], [f"device files are missing: {', '.join(missing)}"])


@dataclass(frozen=True)
class Leftover:
    """What a job left. *processes* are its own. *memory*: devices with more memory in use than may be, by UUID, MiB."""

    processes: tuple[tuple[int, str], ...] = ()
    memory: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"processes": self.processes, "memory": self.memory}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Leftover:
        return cls(
            tuple((int(pid), str(name)) for pid, name in data["processes"]),
            tuple((str(uuid), int(mib)) for uuid, mib in data["memory"]),
        )


def kill_process(pid: int) -> None:
    """:raises OSError: it has ended, or can't be killed."""
    os.kill(pid, signal.SIGKILL)


def epilog(node: Node, settings: Settings, environ: Mapping[str, str], log: Log, kill: Kill = kill_process) -> str:
    """See to it that a job's devices are free again; why the node is to be drained, empty when it is not to be."""
    job = job_of(environ)
    if not job.visible:
        return ""
    end = time.monotonic() + settings.epilog_wait
    told: set[int] = set()
    while True:
        probe = ask(
            "epilog",
            lambda: left_behind(node, job, settings.epilog_memory_mib).to_json(),
            settings.driver_timeout,
            node.root,
            node.proc,
        )
        got = answer(probe, node.proc)
        if got.state == "hangs":
            return drain_reason(["driver"], [f"the NVIDIA driver does not answer: {got.text}"])
        if got.state == "failed":
            log(f"epilog of {job}: its GPUs could not be looked at: {got.text}")
            return ""
        left = Leftover.from_json(got.value)
        for pid, name in left.processes:
            if pid not in told:
                told.add(pid)
                log(f"epilog of {job}: it left the process {name} (pid {pid}) on a GPU")
            if settings.epilog_kill:
                _end(pid, job, node, log, kill)
        if not left.memory and not (left.processes and settings.epilog_kill):
            return ""
        if time.monotonic() >= end:
            return _reason(left, job, settings)
        time.sleep(_PAUSE_S)  # the driver frees memory some time after the process has ended


def left_behind(node: Node, job: Job, limit_mib: int) -> Leftover:
    """Ask the driver what *job* left.

    :raises NvmlError, PynvmlMissing: the driver can't be asked at all.
    """
    inventory = read_inventory(node.root, node.load)
    driven = [gpu for gpu in inventory.gpus if gpu.index is not None]
    mine = {one.uuid for one in devices_of(job, read_map(node.root))} | set(job.visible)
    processes: list[tuple[int, str]] = []
    memory: list[tuple[str, int]] = []
    with nvml.session(node.load) as library:
        for gpu in driven:
            try:
                users = processes_on(library, gpu.pci_address, node.proc)
            except NvmlError:
                continue  # a GPU that fails is the health check's matter
            own = [one for one in users if belongs_to(one.pid, job, node.proc)]
            processes += [(one.pid, one.name) for one in own]
            for uuid, there in _whole_devices(gpu, users):
                # Memory of a device on which somebody else computes is theirs.
                if uuid in mine and all(one in own for one in there):
                    used = _used_mib(library, uuid)
                    if used is not None and used > limit_mib:
                        memory.append((uuid, used))
    return Leftover(tuple(processes), tuple(memory))


def _whole_devices(gpu: Gpu, users: list[GpuProcess]) -> list[tuple[str, list[GpuProcess]]]:
    """The devices of a GPU that have memory of their own, by UUID, with who is on them."""
    if not gpu.mig.current:
        return [(gpu.uuid, users)] if gpu.uuid else []
    found = []
    for instance in gpu.gpu_instances:
        uuid = _only_uuid(instance)
        if uuid is not None:
            # A process that uses the GPU as a whole may be on any of them.
            found.append((uuid, [one for one in users if one.gi_id in (None, instance.id)]))
    return found


def _only_uuid(instance: GpuInstance) -> str | None:
    # Compute instances of one GPU instance share its memory, whose job it is nobody can tell.
    if len(instance.compute_instances) != 1:
        return None
    return instance.compute_instances[0].uuid


def _used_mib(library: Library, uuid: str) -> int | None:
    try:
        return int(library.call("nvmlDeviceGetMemoryInfo", library.call("nvmlDeviceGetHandleByUUID", uuid)).used) >> 20
    except NvmlError:
        return None  # gone or failing: the health check's matter


def _end(pid: int, job: Job, node: Node, log: Log, kill: Kill) -> None:
    # Looked at once more, as late as possible: its number may be another process's by now.
    if not belongs_to(pid, job, node.proc):
        return
    try:
        kill(pid)
    except OSError as error:
        log(f"epilog of {job}: process {pid} could not be killed: {error.strerror or error}")


def _reason(left: Leftover, job: Job, settings: Settings) -> str:
    texts = [
        f"{uuid}: {mib} MiB are in use after {job}, {settings.epilog_wait:g} s after its end"
        for uuid, mib in left.memory
    ]
    if settings.epilog_kill:
        texts += [f"process {name} (pid {pid}) of {job} does not end" for pid, name in left.processes]
    return drain_reason(["epilog"], texts)
