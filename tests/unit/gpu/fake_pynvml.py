# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the pynvml module, for what no emulated driver can show: a pynvml that lacks a function, odd bytes.

Handles are whatever the caller must not look into. Every call can be made to fail, for all GPUs or one of them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

TEXTS = {
    2: "Invalid Argument",
    3: "Not Supported",
    4: "Insufficient Permissions",
    6: "Not Found",
    9: "Driver Not Loaded",
    12: "NVML Shared Library Not Found",
    13: "Function Not Found",
    15: "GPU is lost",
    16: "GPU requires restart",
    18: "RM has detected an NVML/RM version mismatch.",
    999: "Unknown Error",
}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return TEXTS[self.value]


class NVMLLibraryMismatchError(Exception):
    pass


@dataclass
class FakeCi:
    id: int
    profile_id: int = 0
    uuid: str = "MIG-0"
    name: str = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"


@dataclass
class FakeGi:
    id: int
    profile_id: int
    start: int
    size: int
    cis: list[FakeCi] = field(default_factory=list)


#: NVML's profile number to (id, name, MiB): part of an H100's.
H100_PROFILES = {
    0: (19, "MIG 1g.10gb", 9984),
    2: (9, "MIG 3g.40gb", 40448),
    4: (0, "MIG 7g.80gb", 81152),
    7: (20, "MIG 1g.10gb+me", 9984),
}


@dataclass
class FakeGpu:
    bus_id: str = "00000000:1B:00.0"
    pci_device_id: int = 0x233010DE
    pci_subsystem_id: int = 0x16C110DE
    name: str | bytes = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-0"
    minor: int = 0
    memory: int = 81559 * 1024 * 1024
    mig: tuple[int, int] | None = (0, 0)
    profiles: dict[int, tuple[int, str, int]] = field(default_factory=lambda: dict(H100_PROFILES))
    instances: list[FakeGi] = field(default_factory=list)
    links: dict[int, str | None] = field(default_factory=dict)


class FakePynvml:
    """Give it where a pynvml module is loaded: ``read_driver(lambda: FakePynvml([FakeGpu()]))``."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError

    def __init__(self, gpus: list[FakeGpu] | None = None, *, lacks: tuple[str, ...] = (), named: bool = True) -> None:
        self.gpus = [FakeGpu()] if gpus is None else gpus
        self.calls: list[str] = []
        self._lacks = lacks
        self._named = named
        self._faults: dict[str, tuple[Exception, FakeGpu | None]] = {}

    def fail(self, call: str, error: int | Exception, gpu: int | None = None) -> None:
        """Let *call* fail, for all GPUs or the one of this index, with an NVML code or an exception of one's own."""
        exception = NVMLError(error) if isinstance(error, int) else error
        self._faults[call] = (exception, None if gpu is None else self.gpus[gpu])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self._lacks:
            raise AttributeError(name)
        if name in ("c_nvmlGpuInstance_t", "c_nvmlComputeInstance_t"):
            return ctypes.py_object
        function = getattr(self, f"_{name}", None) if name.startswith("nvml") else None
        if function is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            error, gpu = self._faults.get(name, (None, None))
            if error is not None and (gpu is None or any(_gpu_of(one) is gpu for one in arguments)):
                raise error
            return function(*arguments)

        return call

    def _nvmlInit(self) -> None:  # noqa: N802
        pass

    def _nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def _nvmlSystemGetNVMLVersion(self) -> str:  # noqa: N802
        return "12.550.163.01"

    def _nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "550.163.01"

    def _nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[Any, ...]:  # noqa: N802
        handle = (self.gpus[index],)
        error, gpu = self._faults.get("nvmlDeviceGetHandleByIndex", (None, None))
        if error is not None and gpu is self.gpus[index]:
            raise error
        return handle

    def _nvmlDeviceGetPciInfo(self, handle: Any) -> Any:  # noqa: N802
        gpu = handle[0]
        return SimpleNamespace(
            busId=gpu.bus_id.encode(), pciDeviceId=gpu.pci_device_id, pciSubSystemId=gpu.pci_subsystem_id
        )

    def _nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(total=handle[0].memory)

    def _nvmlDeviceGetMinorNumber(self, handle: Any) -> int:  # noqa: N802
        return int(handle[0].minor)

    def _nvmlDeviceGetUUID(self, handle: Any) -> str:  # noqa: N802
        return str(handle[2].uuid if len(handle) == 3 else handle[0].uuid)

    def _nvmlDeviceGetName(self, handle: Any) -> str | bytes:  # noqa: N802
        name: str | bytes = handle[2].name if len(handle) == 3 else handle[0].name
        return name

    def _nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:  # noqa: N802
        if handle[0].mig is None:
            raise NVMLError(3)
        return list(handle[0].mig)

    def _nvmlDeviceGetNvLinkState(self, handle: Any, link: int) -> int:  # noqa: N802
        if link not in handle[0].links:
            raise NVMLError(3 if not handle[0].links else 2)
        return int(handle[0].links[link] is not None)

    def _nvmlDeviceGetNvLinkRemotePciInfo(self, handle: Any, link: int) -> Any:  # noqa: N802
        return SimpleNamespace(busId=handle[0].links[link].encode())

    def _nvmlDeviceGetGpuInstanceProfileInfo(self, handle: Any, number: int, version: int) -> Any:  # noqa: N802
        if version == 2 and not self._named:
            raise NVMLError(13)
        if number not in handle[0].profiles:
            raise NVMLError(3 if number < 10 else 2)
        profile_id, name, memory = handle[0].profiles[number]
        info = SimpleNamespace(id=profile_id, memorySizeMB=memory)
        if version == 2:
            info.name = name.encode()
        return info

    def _nvmlDeviceGetGpuInstances(self, handle: Any, profile_id: int, into: Any, count: Any) -> None:  # noqa: N802
        found = [instance for instance in handle[0].instances if instance.profile_id == profile_id]
        _fill(into, count, [(handle[0], instance) for instance in found])

    def _nvmlGpuInstanceGetInfo(self, handle: Any) -> Any:  # noqa: N802
        instance = handle[1]
        placement = SimpleNamespace(start=instance.start, size=instance.size)
        return SimpleNamespace(id=instance.id, profileId=instance.profile_id, placement=placement)

    def _nvmlGpuInstanceGetComputeInstanceProfileInfo(  # noqa: N802
        self, handle: Any, number: int, engine: int, version: int
    ) -> Any:
        if version == 2 and not self._named:
            raise NVMLError(13)
        if number not in (0, 2) or engine != 0:
            raise NVMLError(3)
        return SimpleNamespace(id=number)

    def _nvmlGpuInstanceGetComputeInstances(  # noqa: N802
        self, handle: Any, profile_id: int, into: Any, count: Any
    ) -> None:
        found = [one for one in handle[1].cis if one.profile_id == profile_id]
        _fill(into, count, [(handle[0], handle[1], one) for one in found])

    def _nvmlComputeInstanceGetInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(id=handle[2].id, profileId=handle[2].profile_id)

    def _nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:  # noqa: N802
        return 7

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802
        gpu = handle[0]
        devices = [(gpu, instance, one) for instance in gpu.instances for one in instance.cis]
        # Index 1 stays empty, as after the destruction of an instance.
        position = index if index == 0 else index - 1
        if index == 1 or position >= len(devices):
            raise NVMLError(6)
        return devices[position]

    def _nvmlDeviceGetGpuInstanceId(self, handle: Any) -> int:  # noqa: N802
        return int(handle[1].id)

    def _nvmlDeviceGetComputeInstanceId(self, handle: Any) -> int:  # noqa: N802
        return int(handle[2].id)


def _gpu_of(argument: Any) -> Any:
    return argument[0] if isinstance(argument, tuple) else None


def _fill(into: Any, count: Any, handles: list[Any]) -> None:
    for position, handle in enumerate(handles):
        into[position] = handle
    count._obj.value = len(handles)  # what ctypes.byref() was given
