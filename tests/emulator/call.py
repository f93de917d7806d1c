# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every emulated NVML function has: its input format, who calls it, and how its values are packed.

A function is registered with :func:`nvml` under its name and the :mod:`struct` format of its input values, as library.c
sends them: handles ``Q``, numbers ``I``, a text as the rest. It returns its output values as bytes, in the order of the
C parameters.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import Code, NvmlError
from .gpu import ComputeInstance, Gpu, GpuInstance, MigDevice
from .machine import Machine

Outs = tuple[bytes, ...]
Function = Callable[..., Outs]
TEXT = "text"


@dataclass(frozen=True)
class Peer:
    """The calling process. *privileged*: it may manage MIG, which is root's right."""

    pid: int
    uid: int
    privileged: bool


@dataclass(frozen=True)
class Context:
    """What a function gets before its input values."""

    machine: Machine
    peer: Peer

    def device(self, handle: int) -> Gpu:
        """:raises NvmlError: INVALID_ARGUMENT, not the handle of a whole GPU; GPU_IS_LOST, it does not answer."""
        thing = self.machine.thing(handle)
        if not isinstance(thing, Gpu):
            raise NvmlError(Code.INVALID_ARGUMENT)
        return answering(thing)

    def any_device(self, handle: int) -> tuple[Gpu, ComputeInstance | None]:
        """The GPU of a handle and, for a MIG device's, its compute instance."""
        thing = self.machine.thing(handle)
        if isinstance(thing, MigDevice):
            instance = thing.compute_instance
            return answering(instance.gpu_instance.gpu), instance
        return self.device(handle), None

    def gpu_instance(self, handle: int) -> GpuInstance:
        """:raises NvmlError: INVALID_ARGUMENT, not the handle of an existing GPU instance."""
        thing = self.machine.thing(handle)
        if not isinstance(thing, GpuInstance):
            raise NvmlError(Code.INVALID_ARGUMENT)
        answering(thing.gpu)
        return thing

    def compute_instance(self, handle: int) -> ComputeInstance:
        """:raises NvmlError: INVALID_ARGUMENT, not the handle of an existing compute instance."""
        thing = self.machine.thing(handle)
        if not isinstance(thing, ComputeInstance):
            raise NvmlError(Code.INVALID_ARGUMENT)
        answering(thing.gpu_instance.gpu)
        return thing

    def require_privilege(self) -> None:
        """:raises NvmlError: NO_PERMISSION, the caller is not root."""
        if not self.peer.privileged:
            raise NvmlError(Code.NO_PERMISSION)

    def changed(self) -> None:
        """Note that the staged files are out of date."""
        self.machine.revision += 1


@dataclass(frozen=True)
class Call:
    """A registered function."""

    name: str
    inputs: str
    function: Function

    def run(self, context: Context, payload: bytes) -> Outs:
        """Call it with the input values in *payload*.

        :raises NvmlError: as the function does; INVALID_ARGUMENT also when the values are not what it takes.
        """
        return self.function(context, *self.arguments(payload))

    def arguments(self, payload: bytes) -> tuple[int | str, ...]:
        try:
            if self.inputs == TEXT:
                return (payload.decode(),)
            return struct.unpack(f"={self.inputs}", payload)
        except (struct.error, UnicodeDecodeError) as error:
            raise NvmlError(Code.INVALID_ARGUMENT) from error


CALLS: dict[str, Call] = {}


def nvml(inputs: str, *names: str) -> Callable[[Function], Function]:
    """Register a function under each of *names*."""

    def register(function: Function) -> Function:
        for name in names:
            assert name not in CALLS, f"{name} is registered twice"  # a mistake in this program
            CALLS[name] = Call(name, inputs, function)
        return function

    return register


def subject(machine: Machine, payload: bytes, name: str) -> int | None:
    """The index of the GPU that a call is about, for faults of one GPU; ``None`` when it is about the machine."""
    if "HandleByIndex" in name and "Mig" not in name and len(payload) == 4:
        return int(struct.unpack("=I", payload)[0])
    if name in CALLS and CALLS[name].inputs == TEXT:
        return _named(machine, payload.decode(errors="replace").lower())
    if len(payload) < 8:
        return None
    thing = machine.thing(struct.unpack_from("=Q", payload)[0])
    match thing:
        case Gpu():
            return thing.index
        case GpuInstance():
            return thing.gpu.index
        case ComputeInstance():
            return thing.gpu_instance.gpu.index
        case MigDevice():
            return thing.compute_instance.gpu_instance.gpu.index
    return None


def _named(machine: Machine, name: str) -> int | None:
    for gpu in machine.gpus:
        uuids = [gpu.uuid, *(device.uuid for device in gpu.mig_devices())]
        if name == gpu.serial or name.endswith(gpu.pci_address) or name in [uuid.lower() for uuid in uuids]:
            return gpu.index
    return None


def answering(gpu: Gpu) -> Gpu:
    """:raises NvmlError: GPU_IS_LOST, it fell off the bus."""
    if gpu.lost:
        raise NvmlError(Code.GPU_IS_LOST)
    return gpu


# -- packing ---------------------------------------------------------------------------------------------------------


def u32(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"={len(values)}Q", *values)


def text(value: str, size: int) -> bytes:
    """A string for a buffer of *size* bytes, its end mark included.

    :raises NvmlError: INSUFFICIENT_SIZE.
    """
    encoded = value.encode() + b"\0"
    if len(encoded) > size:
        raise NvmlError(Code.INSUFFICIENT_SIZE)
    return encoded


def counted(items: Iterable[bytes], room: int) -> Outs:
    """Count and array for a client that told its room.

    :raises NvmlError: INSUFFICIENT_SIZE with the count that is needed.
    """
    found = list(items)
    if len(found) > room:
        raise NvmlError(Code.INSUFFICIENT_SIZE, (u32(len(found)),))
    return u32(len(found)), b"".join(found)


def versioned(version: int, body: bytes) -> bytes:
    """A structure that starts with its version: *version* must be for one as long as *body* with that word.

    :raises NvmlError: ARGUMENT_VERSION_MISMATCH.
    """
    if version & 0xFFFFFF != 4 + len(body):
        raise NvmlError(Code.ARGUMENT_VERSION_MISMATCH)
    return u32(version) + body
