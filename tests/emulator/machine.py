# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: all emulated GPUs, the handles that lead to them, and what a reboot leaves of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import topology
from .boards import Board
from .errors import Code, NvmlError
from .faults import Faults
from .gpu import COMPUTE_PROFILE_IDS, Gpu
from .spec import GpuSpec, parse

#: Debian 13's driver, taken when every board works with it.
DEFAULT_DRIVER = "550.163.01"
_NAMESPACE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@dataclass(frozen=True)
class Options:
    """How the machine differs from the plain one.

    *driver_version*: ``None`` for one that all boards work with. *seed* makes other UUIDs and GPU instance ids.
    *shuffle_minors*: minors differ from indices. *numa*: CPU lists of the NUMA nodes, empty for this machine's own.
    *kernel_driver*: what the GPUs are bound to; anything but ``nvidia`` leaves the driver not loaded.
    """

    driver_version: str | None = None
    seed: int = 0
    shuffle_minors: bool = False
    numa: Sequence[str] = ()
    kernel_driver: str = "nvidia"


@dataclass(eq=False)
class Machine:
    """All state of the emulated driver. *revision* grows whenever the staged files would look different."""

    spec: str
    options: Options
    gpus: list[Gpu] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    boots: int = 1
    revision: int = 0
    driver_version: str = DEFAULT_DRIVER
    switches: list[topology.Switch] = field(default_factory=list)
    _handles: dict[int, object] = field(default_factory=dict)
    _numbers: int = 0
    _uuids: int = 0

    @classmethod
    def build(cls, spec: str, options: Options | None = None, kept: dict[str, Any] | None = None) -> Machine:
        """A machine that was just switched on.

        *kept* is what :meth:`kept` gave before: then this is a reboot, and the specification's slices, which are what a
        new machine starts with, are not made again.

        :raises ValueError: the specification or an option is wrong, or no driver fits.
        """
        options = options or Options()
        specs = parse(spec)
        machine = cls(spec, options)
        machine.driver_version = _driver_version([entry.board for entry in specs], options.driver_version)
        machine.switches = topology.switches([entry.board for entry in specs])
        machine._place(specs)
        if kept is None:
            machine._cut(specs)
        else:
            machine._restore(kept)
        return machine

    def _place(self, specs: list[GpuSpec]) -> None:
        nodes = list(self.options.numa) or topology.host_numa()
        for cpus in nodes:
            topology.parse_cpus(cpus)
        for index, (address, entry) in enumerate(zip(topology.gpu_addresses(len(specs)), specs, strict=True)):
            node = index * len(nodes) // len(specs)
            name = f"{self.options.seed}/{address}/{entry.board.key}"
            gpu = Gpu(
                board=entry.board,
                registry=self,
                index=index,
                minor=self._minor(index, len(specs)),
                pci_address=address,
                uuid=f"GPU-{uuid.uuid5(_NAMESPACE, name)}",
                serial=f"165{uuid.uuid5(_NAMESPACE, name).int % 10**10:010d}",
                numa_node=node,
                cpus=nodes[node],
                id_offset=index + self.options.seed,
            )
            gpu.handle = self.new_handle(gpu)
            self.gpus.append(gpu)

    def _minor(self, index: int, count: int) -> int:
        """Minors in a ring: none equals its index (a single GPU gets minor 1)."""
        if not self.options.shuffle_minors:
            return index
        return (index + 1) % count if count > 1 else 1

    def _cut(self, specs: list[GpuSpec]) -> None:
        for gpu, entry in zip(self.gpus, specs, strict=True):
            if entry.slices is None:
                continue
            gpu.mig_current = gpu.mig_pending = True
            for wanted in entry.slices:
                try:
                    size = None if wanted.start is None else wanted.profile.size
                    instance = gpu.create_instance(wanted.profile.id, wanted.start, size)
                except NvmlError as error:
                    present = ", ".join(f"{done.profile.name}@{done.start}" for done in gpu.instances.values())
                    raise ValueError(
                        f"no room for {wanted.profile.name} on GPU {gpu.index} ({gpu.board.key}) in {self.spec!r} "
                        f"beside {present or 'nothing'}: ask for less, for big slices first, or give starts with @START"
                    ) from error
                gpu.create_compute_instance(instance, COMPUTE_PROFILE_IDS[instance.profile.compute])

    # -- what survives -----------------------------------------------------------------------------------------------

    def kept(self) -> dict[str, Any]:
        """What survives a reboot (JSON-ready): the mode that Ampere boards keep in their InfoROM, the boot count."""
        modes = {gpu.pci_address: gpu.mig_pending for gpu in self.gpus if gpu.board.mig is not None}
        return {"spec": self.spec, "boots": self.boots, "modes": modes}

    def _restore(self, kept: dict[str, Any]) -> None:
        self.boots = int(kept["boots"]) + 1
        for gpu in self.gpus:
            gpu.mig_pending = bool(kept["modes"].get(gpu.pci_address, False))
            self._reboot(gpu)

    def reboot(self) -> None:
        """Restart the machine: no handle, process or instance survives; faults stay, they are the test's."""
        self._handles.clear()
        self.boots += 1
        self._uuids = 0
        for gpu in self.gpus:
            self._reboot(gpu)
            gpu.handle = self.new_handle(gpu)
        self.revision += 1

    def _reboot(self, gpu: Gpu) -> None:
        gpu.reboot()
        gpu.next_id.clear()
        gpu.id_offset = gpu.index + self.options.seed + self.boots - 1

    # -- names -------------------------------------------------------------------------------------------------------

    def new_handle(self, thing: object) -> int:
        self._numbers += 1
        handle = 0x6D69_0000_0000 + self._numbers * 0x40  # looks like a pointer, is none
        self._handles[handle] = thing
        return handle

    def forget_handle(self, handle: int) -> None:
        self._handles.pop(handle, None)

    def new_uuid(self, prefix: str) -> str:
        self._uuids += 1
        return f"{prefix}-{uuid.uuid5(_NAMESPACE, f'{self.options.seed}/{self.spec}/{self.boots}/{self._uuids}')}"

    def thing(self, handle: int) -> object | None:
        """What a handle leads to; ``None`` for one that never was, or of something that is gone."""
        return self._handles.get(handle)

    def find(self, name: str | int) -> Gpu:
        """The GPU of an NVML index, PCI address or UUID, as a person writes them.

        :raises ValueError: there is none; the message lists those there are.
        """
        text = str(name).lower()
        for gpu in self.gpus:
            if text in (str(gpu.index), gpu.pci_address, gpu.uuid.lower()):
                return gpu
        known = ", ".join(f"{gpu.index} ({gpu.pci_address}, {gpu.uuid})" for gpu in self.gpus) or "none"
        raise ValueError(f"expected a GPU by index, PCI address or UUID, found {name!r}: there are {known}")

    # -- the driver --------------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> bool:
        """Whether the driver is loaded: it is not without a GPU, nor when another driver has them."""
        return bool(self.gpus) and self.options.kernel_driver == "nvidia"

    @property
    def driver_major(self) -> int:
        return int(self.driver_version.split(".", maxsplit=1)[0])

    @property
    def nvml_version(self) -> str:
        return f"12.{self.driver_version}"

    def link(self, gpu: Gpu, number: int) -> Gpu | topology.Switch | str | None:
        """The far end of an active NVLink: a GPU, a switch, ``"switch"`` for one not on this PCI bus, ``None`` if down.

        Links of a GPU in MIG mode, or to one, are down.

        :raises NvmlError: NOT_SUPPORTED, the board has no NVLink; INVALID_ARGUMENT, it has no such link.
        """
        if gpu.board.nvlink is None:
            raise NvmlError(Code.NOT_SUPPORTED)
        try:
            target = topology.link_target([other.board for other in self.gpus], gpu.index, number)
        except IndexError as error:
            raise NvmlError(Code.INVALID_ARGUMENT) from error
        if target is None or gpu.mig_current:
            return None
        if isinstance(target, str):
            return self.switches[number % len(self.switches)] if self.switches else target
        return None if self.gpus[target].mig_current else self.gpus[target]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready, for people and tests."""
        return {
            "spec": self.spec,
            "driver_version": self.driver_version,
            "kernel_driver": self.options.kernel_driver,
            "loaded": self.loaded,
            "boots": self.boots,
            "faults": self.faults.to_list(),
            "nvswitches": [switch.pci_address for switch in self.switches],
            "gpus": [_gpu_dict(gpu) for gpu in self.gpus],
        }


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _driver_version(boards: list[Board], wanted: str | None) -> str:
    needed = [board.min_driver for board in boards if board.min_driver is not None]
    newest = max(needed, key=_version, default=DEFAULT_DRIVER)
    if wanted is None:
        return max(DEFAULT_DRIVER, newest, key=_version)
    try:
        too_old = bool(needed) and _version(wanted) < _version(newest)
    except ValueError as error:
        raise ValueError(f"expected a driver version such as {DEFAULT_DRIVER}, found {wanted!r}") from error
    if too_old:
        raise ValueError(
            f"driver {wanted} is too old for these boards, which need {newest}: ask for that or a newer one"
        )
    return wanted


def _gpu_dict(gpu: Gpu) -> dict[str, Any]:
    instances: list[dict[str, Any]] = []
    numbers: dict[str, int] = {device.uuid: index for index, device in enumerate(gpu.mig_devices())}
    for instance in gpu.sorted_instances:
        devices = [
            {
                "id": device.id,
                "name": device.name,
                "uuid": device.uuid,
                "index": numbers[device.uuid],
                "start": device.start,
                "slices": device.slices,
                "processes": sorted(device.processes),
            }
            for device in instance.compute_instances.values()
        ]
        instances.append(
            {
                "id": instance.id,
                "profile": instance.profile.name,
                "profile_id": instance.profile.id,
                "start": instance.start,
                "size": instance.profile.size,
                "processes": sorted(instance.processes),
                "compute_instances": devices,
            }
        )
    return {
        "index": gpu.index,
        "minor": gpu.minor,
        "board": gpu.board.key,
        "name": gpu.board.name,
        "pci_address": gpu.pci_address,
        "uuid": gpu.uuid,
        "lost": gpu.lost,
        "mig_capable": gpu.board.mig is not None,
        "mig_current": gpu.mig_current,
        "mig_pending": gpu.mig_pending,
        "memory_slots": gpu.board.mig.memory_slots if gpu.board.mig else None,
        "processes": sorted(gpu.processes),
        "gpu_instances": instances,
    }
