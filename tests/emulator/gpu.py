# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One emulated GPU: its MIG mode, its instances, who uses them, and the rules that the driver enforces.

Where the behaviour of the real driver is not known for certain the stricter one is taken: code that works here must not
be surprised by hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .boards import Board, Engines, Mig, Profile
from .errors import Code, NvmlError

#: Compute slices and starts of compute instances, by compute slices of the GPU instance: {slices: {size: starts}}.
#: Four-slice instances offer no three-slice compute instance (nvidia-smi mig -lcip).
COMPUTE_PLACEMENTS: dict[int, dict[int, tuple[int, ...]]] = {
    1: {1: (0,)},
    2: {1: (0, 1), 2: (0,)},
    3: {1: (0, 1, 2), 2: (0,), 3: (0,)},
    4: {1: (0, 1, 2, 3), 2: (0, 2), 4: (0,)},
    7: {1: (0, 1, 2, 3, 4, 5, 6), 2: (0, 2, 4), 3: (0, 4), 4: (0,), 7: (0,)},
}
#: NVML_COMPUTE_INSTANCE_PROFILE_* by compute slices; the profile id is the same number.
COMPUTE_PROFILE_IDS = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}
COMPUTE_INSTANCE_PROFILE_COUNT = 8
#: What each process is told to use.
PROCESS_MEMORY_MIB = 256


class Registry(Protocol):
    """What a GPU needs of its machine to name a new object."""

    def new_handle(self, thing: object) -> int:
        """A number that no object of this machine had before; it leads to *thing* until forgotten."""

    def forget_handle(self, handle: int) -> None:
        """Make a handle invalid."""

    def new_uuid(self, prefix: str) -> str:
        """A UUID that no object had before, the same in each run with the same seed and history."""


@dataclass(eq=False)
class ComputeInstance:
    """A compute instance, which is also what the MIG device handle stands for."""

    gpu_instance: GpuInstance
    id: int
    slices: int
    start: int
    uuid: str
    handle: int = 0
    device_handle: int = 0
    processes: set[int] = field(default_factory=set)

    @property
    def profile_id(self) -> int:
        return COMPUTE_PROFILE_IDS[self.slices]

    @property
    def name(self) -> str:
        """The MIG part of the device's NVML name: ``1g.10gb``, ``1c.3g.40gb``."""
        return compute_profile_name(self.gpu_instance.profile, self.slices)


@dataclass(eq=False)
class GpuInstance:
    """A GPU instance at *start* (memory slots); *processes* use it without a compute instance of their own."""

    gpu: Gpu
    id: int
    profile: Profile
    start: int
    handle: int = 0
    compute_instances: dict[int, ComputeInstance] = field(default_factory=dict)
    processes: set[int] = field(default_factory=set)

    @property
    def slots(self) -> range:
        return range(self.start, self.start + self.profile.size)


def compute_profile_name(profile: Profile, slices: int) -> str:
    """The name of a compute profile in a GPU instance; the one that fills it has the instance's own name."""
    return profile.name if slices == profile.compute else f"{slices}c.{profile.name}"


def shared_multiprocessors(profile: Profile, slices: int) -> int:
    """Multiprocessors of a compute instance: its share of the GPU instance's."""
    return profile.sm * slices // profile.compute


@dataclass(eq=False)
class Gpu:
    """One GPU. *index* is NVML's, *minor* the device node's; *lost* means it fell off the bus."""

    board: Board
    registry: Registry
    index: int
    minor: int
    pci_address: str
    uuid: str
    serial: str
    numa_node: int
    cpus: str
    handle: int = 0
    mig_current: bool = False
    mig_pending: bool = False
    lost: bool = False
    instances: dict[int, GpuInstance] = field(default_factory=dict)
    processes: set[int] = field(default_factory=set)
    #: Where the search for a free GPU instance id goes on, per level of the id tree.
    next_id: dict[int, int] = field(default_factory=dict)
    id_offset: int = 0
    #: Memory that nobody uses and that is not free, in MiB by GPU instance (``None``: of the whole GPU).
    leaked_mib: dict[int | None, int] = field(default_factory=dict)
    uncorrected_errors: int = 0
    remapped_rows: int = 0
    remap_pending: bool = False
    remap_failed: bool = False

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def mig(self) -> Mig:
        """The board's MIG facts.

        :raises NvmlError: NOT_SUPPORTED, the board has no MIG.
        """
        if self.board.mig is None:
            raise NvmlError(Code.NOT_SUPPORTED)
        return self.board.mig

    @property
    def sorted_instances(self) -> list[GpuInstance]:
        return [self.instances[key] for key in sorted(self.instances)]

    def mig_devices(self) -> list[ComputeInstance]:
        """The MIG devices in the order of their indices, which have no gap."""
        return [
            instance.compute_instances[key]
            for instance in self.sorted_instances
            for key in sorted(instance.compute_instances)
        ]

    def profile(self, profile_id: int) -> Profile:
        """:raises NvmlError: INVALID_ARGUMENT, the board has no profile of this id."""
        found = self.mig.by_id(profile_id)
        if found is None:
            raise NvmlError(Code.INVALID_ARGUMENT)
        return found

    def require_mig_on(self) -> None:
        """:raises NvmlError: NOT_SUPPORTED, MIG is not in force: no instance can be asked for or made."""
        if not self.mig_current or self.board.mig is None:
            raise NvmlError(Code.NOT_SUPPORTED)

    # -- mode --------------------------------------------------------------------------------------------------------

    def set_mig_mode(self, enabled: bool) -> Code:
        """Change the MIG mode; the return value is the activation status.

        Ampere only notes the wish and answers RESET_REQUIRED; later generations switch at once.

        :raises NvmlError: IN_USE, instances exist or a process holds the GPU.
        """
        mode = self.mig.mode
        if enabled == self.mig_current:
            self.mig_pending = enabled
            return Code.SUCCESS
        if self.instances or any(self.running()):
            raise NvmlError(Code.IN_USE)
        self.mig_pending = enabled
        if mode == "ampere":
            return Code.RESET_REQUIRED
        self.mig_current = enabled
        return Code.SUCCESS

    def reset(self) -> None:
        """What a GPU reset does: all instances go, a pending mode comes into force.

        :raises NvmlError: IN_USE, a process holds the GPU; GPU_IS_LOST, it does not answer.
        """
        if self.lost:
            raise NvmlError(Code.GPU_IS_LOST)
        if any(self.running()):
            raise NvmlError(Code.IN_USE)
        self._drop_instances()
        self._mend_memory()
        self.mig_current = self.mig_pending

    def reboot(self) -> None:
        """What a reboot does: instances and processes go; Ampere keeps its mode, later generations lose it."""
        self._drop_instances()
        self._mend_memory()
        self.processes.clear()
        self.lost = False
        if self.board.mig is not None and self.board.mig.mode == "ampere":
            self.mig_current = self.mig_pending
        else:
            self.mig_current = self.mig_pending = False

    def _mend_memory(self) -> None:
        """A pending row is remapped and counters begin anew. A row for which there is no other stays broken."""
        self.remapped_rows += self.remap_pending
        self.remap_pending = False
        self.uncorrected_errors = 0
        self.leaked_mib.clear()

    def _drop_instances(self) -> None:
        for device in self.mig_devices():
            self.registry.forget_handle(device.handle)
            self.registry.forget_handle(device.device_handle)
        for instance in self.instances.values():
            self.registry.forget_handle(instance.handle)
        self.instances.clear()

    # -- GPU instances -----------------------------------------------------------------------------------------------

    def free_starts(self, profile: Profile) -> list[int]:
        """Starts at which an instance of *profile* would be accepted now."""
        if not self._within_budget(profile):
            return []
        taken = {slot for instance in self.instances.values() for slot in instance.slots}
        return [start for start in profile.starts if taken.isdisjoint(range(start, start + profile.size))]

    def _within_budget(self, wanted: Profile) -> bool:
        """Whether compute slices and engines allow one more *wanted*, wherever it goes.

        The engines also see to it that the media extension (``+me``, ``+me.all``) is given once: it has the only OFA.
        """
        profiles = [instance.profile for instance in self.instances.values()] + [wanted]
        if sum(profile.compute for profile in profiles) > self.mig.compute_slices:
            return False
        budget = self.mig.whole.engines
        kinds: list[Callable[[Engines], int]] = [
            lambda engines: engines.decoder,
            lambda engines: engines.encoder,
            lambda engines: engines.jpeg,
            lambda engines: engines.ofa,
        ]
        return all(sum(kind(profile.engines) for profile in profiles) <= kind(budget) for kind in kinds)

    def remaining(self, profile: Profile) -> int:
        """How many more instances of *profile* fit now. Exact, as starts of one profile never overlap each other."""
        added: list[GpuInstance] = []
        while starts := self.free_starts(profile):
            key = -1 - len(added)  # a key that no instance has
            self.instances[key] = GpuInstance(self, key, profile, starts[0])
            added.append(self.instances[key])
        for instance in added:
            del self.instances[instance.id]
        return len(added)

    def create_instance(self, profile_id: int, start: int | None = None, size: int | None = None) -> GpuInstance:
        """Create a GPU instance; without *start* the driver chooses the highest free one.

        That order is why small instances first can leave no room for a big one that would have fit.

        :raises NvmlError: NOT_SUPPORTED (MIG off), INVALID_ARGUMENT (profile or placement not of this board),
            INSUFFICIENT_RESOURCES (no room).
        """
        self.require_mig_on()
        profile = self.profile(profile_id)
        if start is not None and (start not in profile.starts or size != profile.size):
            raise NvmlError(Code.INVALID_ARGUMENT)
        free = self.free_starts(profile)
        if not free or (start is not None and start not in free):
            raise NvmlError(Code.INSUFFICIENT_RESOURCES)
        instance = GpuInstance(self, self._new_id(profile), profile, max(free) if start is None else start)
        instance.handle = self.registry.new_handle(instance)
        self.instances[instance.id] = instance
        return instance

    def _new_id(self, profile: Profile) -> int:
        """The id of a new GPU instance: ids form a tree (0; 1, 2; 3 to 6; 7 to 14), one level per fraction of the GPU.

        Within a level the search starts where the last one ended and, at first, elsewhere on every GPU: nobody can
        derive an id from a placement, as on real boards.
        """
        width = 1 << (self.mig.memory_slots // profile.size).bit_length() - 1
        taken = {instance.id for instance in self.instances.values()}
        begin = self.next_id.get(width, self.id_offset % width)
        for step in range(width):
            number = width - 1 + (begin + step) % width
            if number not in taken:
                self.next_id[width] = (begin + step + 1) % width
                return number
        raise AssertionError(f"no id left for {profile.name} on {self.pci_address}, yet its placement was free")

    def destroy_instance(self, instance: GpuInstance) -> None:
        """:raises NvmlError: IN_USE, it has compute instances or a process uses it."""
        if instance.compute_instances or alive(instance.processes):
            raise NvmlError(Code.IN_USE)
        del self.instances[instance.id]
        self.leaked_mib.pop(instance.id, None)
        self.registry.forget_handle(instance.handle)

    # -- compute instances -------------------------------------------------------------------------------------------

    def compute_profile(self, instance: GpuInstance, profile_id: int) -> int:
        """The slices of a compute profile id.

        :raises NvmlError: INVALID_ARGUMENT, no such profile in this GPU instance.
        """
        for slices in COMPUTE_PLACEMENTS[instance.profile.compute]:
            if COMPUTE_PROFILE_IDS[slices] == profile_id:
                return slices
        raise NvmlError(Code.INVALID_ARGUMENT)

    def free_compute_starts(self, instance: GpuInstance, slices: int) -> list[int]:
        """Starts at which a compute instance of *slices* would be accepted now."""
        taken = {
            slot
            for other in instance.compute_instances.values()
            for slot in range(other.start, other.start + other.slices)
        }
        starts = COMPUTE_PLACEMENTS[instance.profile.compute][slices]
        return [start for start in starts if taken.isdisjoint(range(start, start + slices))]

    def create_compute_instance(
        self, instance: GpuInstance, profile_id: int, start: int | None = None, size: int | None = None
    ) -> ComputeInstance:
        """Create a compute instance; without *start* at the lowest free one.

        :raises NvmlError: INVALID_ARGUMENT or INSUFFICIENT_RESOURCES, as for GPU instances.
        """
        slices = self.compute_profile(instance, profile_id)
        allowed = COMPUTE_PLACEMENTS[instance.profile.compute][slices]
        if start is not None and (start not in allowed or size != slices):
            raise NvmlError(Code.INVALID_ARGUMENT)
        free = self.free_compute_starts(instance, slices)
        if not free or (start is not None and start not in free):
            raise NvmlError(Code.INSUFFICIENT_RESOURCES)
        number = next(key for key in range(8) if key not in instance.compute_instances)
        chosen = free[0] if start is None else start
        created = ComputeInstance(instance, number, slices, chosen, self.registry.new_uuid("MIG"))
        created.handle = self.registry.new_handle(created)
        created.device_handle = self.registry.new_handle(MigDevice(created))
        instance.compute_instances[number] = created
        return created

    def destroy_compute_instance(self, target: ComputeInstance) -> None:
        """:raises NvmlError: IN_USE, a process uses it, or its GPU instance without naming a compute instance."""
        if alive(target.processes) or alive(target.gpu_instance.processes):
            raise NvmlError(Code.IN_USE)
        del target.gpu_instance.compute_instances[target.id]
        self.registry.forget_handle(target.handle)
        self.registry.forget_handle(target.device_handle)

    # -- processes ---------------------------------------------------------------------------------------------------

    def running(self) -> Iterator[tuple[int, GpuInstance | None, ComputeInstance | None]]:
        """Living processes on this GPU with the instances they use."""
        for pid in alive(self.processes):
            yield pid, None, None
        for instance in self.sorted_instances:
            for pid in alive(instance.processes):
                yield pid, instance, None
            for device in instance.compute_instances.values():
                for pid in alive(device.processes):
                    yield pid, instance, device


@dataclass(eq=False)
class MigDevice:
    """What a MIG device handle leads to; the handle of the compute instance itself is another one."""

    compute_instance: ComputeInstance


def alive(processes: set[int]) -> list[int]:
    """The processes that still exist: a GPU is released when its user ends, however it ends."""
    processes.intersection_update({pid for pid in processes if Path(f"/proc/{pid}").exists()})
    return sorted(processes)
