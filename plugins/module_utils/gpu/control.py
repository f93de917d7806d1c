# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing the MIG state of one GPU, and reading it exactly: the only file that writes to a driver.

Every operation is one call of NVML that changes something, so that a caller knows after each what may have happened.
Needs root, or ``CAP_SYS_ADMIN``. What the driver refuses is an :class:`.nvml.NvmlError`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .instances import read_instances
from .model import MigState, Placement
from .nvml import Library, NvmlCode, NvmlError

#: Return codes of NVML that matter to who changes something (``nvmlReturn_t``).
IN_USE = 19
INSUFFICIENT_RESOURCES = 23

_COMPUTE_INSTANCE_PROFILES = 8  # NVML_COMPUTE_INSTANCE_PROFILE_COUNT
_SHARED_ENGINES = 0  # NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
_MOST_PLACEMENTS = 32
_NO_SUCH = (NvmlCode.NOT_SUPPORTED, NvmlCode.INVALID_ARGUMENT)


class Span(ctypes.Structure):
    """``nvmlGpuInstancePlacement_t`` and ``nvmlComputeInstancePlacement_t``, which are the same."""

    _fields_ = (("start", ctypes.c_uint), ("size", ctypes.c_uint))


@dataclass(frozen=True)
class LiveInstance:
    """A GPU instance that exists. *cis* pairs the id of each compute instance with its compute slices."""

    gi_id: int
    profile_id: int
    profile: str | None
    placement: Placement
    cis: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class LiveState:
    """Everything of a GPU that a layout can change; *instances* by slot."""

    mig: MigState
    instances: tuple[LiveInstance, ...] = ()


@dataclass(frozen=True)
class _ComputeProfile:
    id: int
    slices: int


class MigControl:
    """One GPU, by its PCI address, in an open session.

    :raises NvmlError: the driver does not have the GPU, or has lost it.
    """

    def __init__(self, library: Library, pci_address: str) -> None:
        self._library = library
        self._device = library.call("nvmlDeviceGetHandleByPciBusId", pci_address)

    # -- reading -------------------------------------------------------------------------------------------------------

    def mode(self) -> MigState:
        """MIG mode as it is and as it is going to be."""
        current, pending = self._library.call("nvmlDeviceGetMigMode", self._device)
        return MigState(capable=True, current=bool(current), pending=bool(pending))

    def state(self) -> LiveState:
        """Mode and instances.

        :raises NvmlError: not all of it could be read.
        """
        mig = self.mode()
        if not mig.current:
            return LiveState(mig)
        failures: list[NvmlError] = []
        found, complete = read_instances(self._library, self._device, lambda error, _: failures.append(error))
        if not complete:
            raise failures[0]
        sizes: dict[int, dict[int, int]] = {}
        instances = []
        for one in found:
            if one.compute_instances and one.profile_id not in sizes:
                profiles = self._compute_profiles(self._gpu_instance(one.id))
                sizes[one.profile_id] = {profile.id: profile.slices for profile in profiles}
            cis = tuple((ci.id, sizes[one.profile_id][ci.profile_id]) for ci in one.compute_instances)
            instances.append(LiveInstance(one.id, one.profile_id, one.profile, one.placement, cis))
        return LiveState(mig, tuple(instances))

    # -- changing ------------------------------------------------------------------------------------------------------

    def set_mode(self, enabled: bool) -> None:
        """Ask for MIG mode. Whether it has come into force :meth:`mode` says: Ampere makes it pending."""
        self._library.call("nvmlDeviceSetMigMode", self._device, int(enabled))

    def create_gpu_instance(self, profile_id: int, placement: Placement) -> int:
        """Create a GPU instance at exactly *placement*; its id."""
        span = Span(placement.start, placement.size)
        call = "nvmlDeviceCreateGpuInstanceWithPlacement"
        handle = self._library.call(call, self._device, profile_id, ctypes.byref(span))
        return int(self._library.call("nvmlGpuInstanceGetInfo", handle).id)

    def destroy_gpu_instance(self, gi_id: int) -> None:
        """Destroy a GPU instance, which must have no compute instances left."""
        self._library.call("nvmlGpuInstanceDestroy", self._gpu_instance(gi_id))

    def create_compute_instance(self, gi_id: int, slices: int, start: int | None = None) -> None:
        """Create a compute instance of *slices*; at compute slice *start*, or where the driver likes.

        :raises NvmlError: the driver refused, or its list of compute instance profiles has none of this size (code
            ``NOT_SUPPORTED``).
        """
        parent = self._gpu_instance(gi_id)
        profile_id = self._compute_profile_id(parent, slices)
        if start is None:
            self._library.call("nvmlGpuInstanceCreateComputeInstance", parent, profile_id)
            return
        span = Span(start, slices)
        call = "nvmlGpuInstanceCreateComputeInstanceWithPlacement"
        self._library.call(call, parent, profile_id, ctypes.byref(span))

    def destroy_compute_instance(self, gi_id: int, ci_id: int) -> None:
        """Destroy a compute instance."""
        call = self._library.call
        call(
            "nvmlComputeInstanceDestroy",
            call("nvmlGpuInstanceGetComputeInstanceById", self._gpu_instance(gi_id), ci_id),
        )

    def arrange(self, gi_id: int, sizes: Sequence[int]) -> list[int] | None:
        """Starts at which compute instances of these *sizes* all fit into the empty GPU instance *gi_id*.

        Left to itself the driver may put the first where it leaves no room for the next: of 3, 2 and 2 slices the 3
        must not go first. ``None`` where the driver lists no placements, or no arrangement fits.
        """
        parent = self._gpu_instance(gi_id)
        try:
            starts = {size: self._compute_starts(parent, size) for size in set(sizes)}
        except NvmlError as error:
            if error.code not in (*_NO_SUCH, NvmlCode.FUNCTION_NOT_FOUND):
                raise
            return None
        return next(_arrangements(tuple(sizes), starts, 0), None)

    # -- handles and profiles ------------------------------------------------------------------------------------------

    def _gpu_instance(self, gi_id: int) -> object:
        # Looked up each time: a handle of an instance that is gone would be another one's some day.
        return self._library.call("nvmlDeviceGetGpuInstanceById", self._device, gi_id)

    def _compute_profiles(self, gpu_instance: object) -> list[_ComputeProfile]:
        found = []
        for number in range(_COMPUTE_INSTANCE_PROFILES):
            try:
                found.append(self._compute_profile(gpu_instance, number))
            except NvmlError as error:
                if error.code not in _NO_SUCH:
                    raise
        return found

    def _compute_profile(self, gpu_instance: object, number: int) -> _ComputeProfile:
        call = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
        try:
            info = self._library.call(call, gpu_instance, number, _SHARED_ENGINES, 2)
        except NvmlError as error:
            if error.code != NvmlCode.FUNCTION_NOT_FOUND:
                raise
            info = self._library.call(call, gpu_instance, number, _SHARED_ENGINES, 1)
        return _ComputeProfile(int(info.id), int(info.sliceCount))

    def _compute_profile_id(self, gpu_instance: object, slices: int) -> int:
        profiles = self._compute_profiles(gpu_instance)
        # NVML numbers the ordinary profile of a size before variants of it.
        match = next((profile.id for profile in profiles if profile.slices == slices), None)
        if match is None:
            sizes = ", ".join(str(profile.slices) for profile in profiles) or "none"
            raise NvmlError(
                "nvmlGpuInstanceGetComputeInstanceProfileInfo",
                NvmlCode.NOT_SUPPORTED,
                f"the driver offers compute instances of these compute slices: {sizes}",
            )
        return match

    def _compute_starts(self, gpu_instance: object, slices: int) -> list[int]:
        spans = (Span * _MOST_PLACEMENTS)()
        count = ctypes.c_uint(_MOST_PLACEMENTS)
        profile_id = self._compute_profile_id(gpu_instance, slices)
        call = "nvmlGpuInstanceGetComputeInstancePossiblePlacements"
        self._library.call(call, gpu_instance, profile_id, spans, ctypes.byref(count))
        return sorted(spans[number].start for number in range(min(count.value, _MOST_PLACEMENTS)))


def _arrangements(sizes: tuple[int, ...], starts: dict[int, list[int]], taken: int) -> Iterator[list[int]]:
    if not sizes:
        yield []
        return
    for start in starts[sizes[0]]:
        mask = ((1 << sizes[0]) - 1) << start
        if not mask & taken:
            for rest in _arrangements(sizes[1:], starts, taken | mask):
                yield [start, *rest]
