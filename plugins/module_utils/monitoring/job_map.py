# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which job uses which GPU or MIG device, as files that the DCGM exporter turns into its label ``hpc_job``.

One file for each device in use, named by the GPU's index (``0``) or by index and GPU instance (``2.7``), with the
number of a job on each line: several jobs may share a GPU, or have the compute instances of one GPU instance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..gpu.model import Inventory
from ..mig.lock import locked
from ..slurm.static import UUID_MAP
from .metrics import write_whole

#: Below a root. In /run: no job outlives a reboot.
FOLDER = Path("run/hpc-compute/gpu-jobs")
LOCK = Path("run/hpc-compute/gpu-jobs.lock")

_WAIT_S = 10.0


class JobMapError(Exception):
    """A job's devices can't be told; the text says what was expected and found."""


@dataclass(frozen=True)
class JobMap:
    """The files below *root*."""

    root: Path = Path("/")

    @property
    def folder(self) -> Path:
        return self.root / FOLDER

    def begin(self, job: str, devices: Collection[str]) -> None:
        """Note that *job* uses *devices*, named as :func:`device_names` does.

        :raises LockError, OSError: the files can't be had.
        """
        with locked(self.root / LOCK, _WAIT_S):
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for name in devices:
                jobs = self._read(name)
                if job not in jobs:
                    self._write(name, [*jobs, job])

    def end(self, gone: Collection[str]) -> None:
        """Forget the jobs in *gone*, on whatever devices they were.

        :raises LockError, OSError: the files can't be had.
        """
        with locked(self.root / LOCK, _WAIT_S):
            for name, jobs in self.devices().items():
                left = [one for one in jobs if one not in gone]
                if left != jobs:
                    self._write(name, left)

    def devices(self) -> dict[str, list[str]]:
        """The jobs of each device in use.

        :raises OSError: a file can't be read.
        """
        if not self.folder.is_dir():
            return {}
        return {path.name: self._read(path.name) for path in sorted(self.folder.iterdir()) if _is_device(path.name)}

    def jobs(self) -> frozenset[str]:
        """All jobs that are noted.

        :raises OSError: a file can't be read.
        """
        return frozenset(job for jobs in self.devices().values() for job in jobs)

    def _read(self, name: str) -> list[str]:
        try:
            return (self.folder / name).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return []

    def _write(self, name: str, jobs: Iterable[str]) -> None:
        text = "".join(f"{job}\n" for job in jobs)
        if text:
            write_whole(self.folder / name, text)
        else:
            (self.folder / name).unlink(missing_ok=True)


def _is_device(name: str) -> bool:
    return all(part.isdecimal() for part in name.split(".")) and name.count(".") <= 1


def device_names(visible: str, inventory: Inventory, root: Path) -> list[str]:
    """The devices in a job's ``CUDA_VISIBLE_DEVICES``, as Slurm's prolog has it, by the names that the exporter reads.

    Slurm puts UUIDs of MIG devices there; for whole GPUs, and for all where it was told its devices, places in its own
    list, which the map beside gres.conf explains.

    :raises JobMapError: one can't be found.
    """
    names = _names(inventory)
    places: Mapping[str, str] | None = None
    found = []
    for entry in filter(None, visible.split(",")):
        uuid = entry
        if entry.isdecimal():
            places = _places(root, inventory) if places is None else places
            if entry not in places:
                raise JobMapError(f"expected the device {entry} that Slurm gave in {root / UUID_MAP}, found none by it")
            uuid = places[entry]
        if uuid not in names:
            raise JobMapError(f"expected a GPU or MIG device {uuid}, the driver shows none")
        if names[uuid] not in found:
            found.append(names[uuid])
    return found


def _names(inventory: Inventory) -> dict[str, str]:
    names = {}
    for gpu in inventory.gpus:
        if gpu.index is None:
            continue
        if gpu.uuid is not None:
            names[gpu.uuid] = str(gpu.index)
        for instance in gpu.gpu_instances:
            for one in instance.compute_instances:
                if one.uuid is not None:
                    names[one.uuid] = f"{gpu.index}.{instance.id}"
    return names


def _places(root: Path, inventory: Inventory) -> dict[str, str]:
    path = root / UUID_MAP
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not any(gpu.gpu_instances for gpu in inventory.gpus):
            # Another's gres.conf, whole GPUs only: Slurm lists them by their device files.
            known = ((gpu.minor, gpu.uuid) for gpu in inventory.gpus if gpu.minor is not None and gpu.uuid is not None)
            return {str(place): uuid for place, (_, uuid) in enumerate(sorted(known))}
        raise JobMapError(
            f"expected the map of Slurm's devices {path}, which slurm_gres and gpu-layout.service write, found none"
        ) from error
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {words[0]: words[1] for words in lines if len(words) >= 2}
