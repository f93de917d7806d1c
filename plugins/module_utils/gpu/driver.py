# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the NVIDIA driver says about its GPUs, one by one: one that fails hides nothing of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import nvml
from .instances import read_instances
from .model import GpuInstance, MigState, Problem
from .nvml import Library, Loader, NvmlCode, NvmlError, PynvmlMissing
from .pci import canonical_address
from .troubles import function_missing, gpu_trouble, session_trouble

_MIB = 1024 * 1024

# NVML_NVLINK_MAX_LINKS; NVML itself says where a GPU has fewer.
_NVLINKS = 18


@dataclass(frozen=True)
class DriverGpu:
    """One GPU as the driver tells it; ``None`` for what it did not tell, for which there is a problem.

    *nvlink_remotes* counts links by the PCI address at their other end, NVSwitches included. *gpu_instances* have no
    device files yet. *instances_complete* is False where an instance may exist that is not listed. *mig* is ``None``
    when the mode could not be read.
    """

    pci_address: str
    index: int
    vendor_id: str
    device_id: str
    subsystem_vendor_id: str
    subsystem_device_id: str
    minor: int | None = None
    uuid: str | None = None
    name: str | None = None
    memory_mib: int | None = None
    nvlink_remotes: dict[str, int] = field(default_factory=dict)
    mig: MigState | None = None
    gpu_instances: tuple[GpuInstance, ...] = ()
    instances_complete: bool = True


@dataclass(frozen=True)
class DriverReport:
    """All that the driver told.

    *failure* is what kept NVML from working as a whole (``None``: it worked). *nameless* are the failures of GPUs that
    the driver counts but of which not even the PCI address could be read.
    """

    gpus: tuple[DriverGpu, ...] = ()
    driver_version: str | None = None
    nvml_version: str | None = None
    failure: Problem | None = None
    nameless: tuple[NvmlError, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_driver(load: Loader = nvml.load_pynvml) -> DriverReport:
    """Ask the driver. Never raises: that there is none, or that it fails, is part of the report."""
    reader = _Reader()
    failure: Problem | None = None
    try:
        with nvml.session(load) as library:
            reader.read(library)
    except PynvmlMissing as error:
        failure = Problem(
            "pynvml_missing",
            f"expected the Python module pynvml, through which the NVIDIA driver is asked: {error}; install the Debian "
            "package python3-pynvml, or run the module with a Python that has it (ansible_python_interpreter)",
        )
    except NvmlError as error:
        failure = session_trouble(error)
    return DriverReport(
        gpus=tuple(reader.gpus),
        driver_version=reader.driver_version,
        nvml_version=reader.nvml_version,
        failure=failure,
        nameless=tuple(reader.nameless),
        problems=tuple(reader.problems),
    )


class _Reader:
    """Collects, so that what was read before NVML failed as a whole is not lost."""

    def __init__(self) -> None:
        self.gpus: list[DriverGpu] = []
        self.driver_version: str | None = None
        self.nvml_version: str | None = None
        self.nameless: list[NvmlError] = []
        self.problems: list[Problem] = []
        self._missing: set[str] = set()

    def read(self, library: Library) -> None:
        self.nvml_version = self._version(library, "nvmlSystemGetNVMLVersion", "version of the NVML library")
        self.driver_version = self._version(library, "nvmlSystemGetDriverVersion", "version of the driver")
        for index in range(library.call("nvmlDeviceGetCount")):
            try:
                handle = library.call("nvmlDeviceGetHandleByIndex", index)
                identity = _identity(library, handle)
            except NvmlError as error:
                self.nameless.append(error)
                continue
            self.gpus.append(self._gpu(library, handle, index, identity))

    def _version(self, library: Library, call: str, what: str) -> str | None:
        try:
            return str(library.call(call))
        except NvmlError as error:
            if error.code == NvmlCode.FUNCTION_NOT_FOUND:
                self._report_missing(error, what)
            else:
                self.problems.append(Problem("driver_not_responding", f"the {what} could not be read: {error}"))
            return None

    def _gpu(self, library: Library, handle: object, index: int, identity: _Identity) -> DriverGpu:
        asker = _Asker(library, handle, identity.pci_address, self._report, self._report_missing)
        memory = asker.ask("nvmlDeviceGetMemoryInfo", "memory size")
        mig = _mig_state(asker)
        instances: tuple[GpuInstance, ...] = ()
        complete = not asker.lost
        if mig is not None and mig.current and complete:
            instances, complete = read_instances(library, handle, asker.fail)
        return DriverGpu(
            pci_address=identity.pci_address,
            index=index,
            vendor_id=identity.vendor_id,
            device_id=identity.device_id,
            subsystem_vendor_id=identity.subsystem_vendor_id,
            subsystem_device_id=identity.subsystem_device_id,
            minor=asker.ask("nvmlDeviceGetMinorNumber", "device minor"),
            uuid=asker.ask("nvmlDeviceGetUUID", "UUID"),
            name=asker.ask("nvmlDeviceGetName", "name"),
            memory_mib=None if memory is None else int(memory.total) // _MIB,
            nvlink_remotes=_nvlink_remotes(asker),
            mig=mig,
            gpu_instances=instances,
            instances_complete=complete,
        )

    def _report(self, problem: Problem) -> None:
        # A call that is made for each profile or link fails in the same words each time.
        if problem not in self.problems:
            self.problems.append(problem)

    def _report_missing(self, error: NvmlError, what: str) -> None:
        # The library is the same for every GPU: once is enough.
        if error.call not in self._missing:
            self._missing.add(error.call)
            self.problems.append(function_missing(error, what, self.nvml_version))


@dataclass(frozen=True)
class _Identity:
    pci_address: str
    vendor_id: str
    device_id: str
    subsystem_vendor_id: str
    subsystem_device_id: str


def _identity(library: Library, handle: object) -> _Identity:
    call = "nvmlDeviceGetPciInfo"
    info = library.call(call, handle)
    try:
        address = canonical_address(nvml.as_text(info.busId))
    except ValueError as error:
        raise NvmlError(call, NvmlCode.UNKNOWN, str(error)) from error
    # Device in the upper, vendor in the lower half of the word.
    return _Identity(
        address,
        vendor_id=f"{info.pciDeviceId & 0xFFFF:04x}",
        device_id=f"{info.pciDeviceId >> 16:04x}",
        subsystem_vendor_id=f"{info.pciSubSystemId & 0xFFFF:04x}",
        subsystem_device_id=f"{info.pciSubSystemId >> 16:04x}",
    )


class _Asker:
    """Asks about one GPU and turns failures into problems; once the GPU is lost it asks no more."""

    def __init__(
        self,
        library: Library,
        handle: object,
        address: str,
        report: Callable[[Problem], None],
        report_missing: Callable[[NvmlError, str], None],
    ) -> None:
        self._library = library
        self._handle = handle
        self._address = address
        self._report = report
        self._report_missing = report_missing
        self.lost = False

    def raw(self, call: str, *arguments: object) -> Any:
        """The call's result.

        :raises NvmlError: it failed.
        """
        return self._library.call(call, self._handle, *arguments)

    def ask(self, call: str, what: str) -> Any:
        """The call's result, or ``None`` and a problem."""
        if self.lost:
            return None
        try:
            return self.raw(call)
        except NvmlError as error:
            self.fail(error, what)
            return None

    def fail(self, error: NvmlError, what: str) -> None:
        """Turn a failure into a problem."""
        if error.code == NvmlCode.FUNCTION_NOT_FOUND:
            self._report_missing(error, what)
        elif error.code == NvmlCode.GPU_IS_LOST:
            if not self.lost:
                self._report(gpu_trouble(error, what, self._address))
            self.lost = True
        else:
            self._report(gpu_trouble(error, what, self._address))


def _mig_state(asker: _Asker) -> MigState | None:
    if asker.lost:
        return None
    try:
        current, pending = asker.raw("nvmlDeviceGetMigMode")
    except NvmlError as error:
        if error.code == NvmlCode.NOT_SUPPORTED:
            return MigState(capable=False)
        asker.fail(error, "MIG mode")
        return None
    return MigState(capable=True, current=bool(current), pending=bool(pending))


def _nvlink_remotes(asker: _Asker) -> dict[str, int]:
    """Active NVLinks by the PCI address at the other end. Most GPUs have none, which NVML calls not supported."""
    remotes: Counter[str] = Counter()
    if asker.lost:
        return {}
    try:
        for link in range(_NVLINKS):
            try:
                if not asker.raw("nvmlDeviceGetNvLinkState", link):
                    continue
                info = asker.raw("nvmlDeviceGetNvLinkRemotePciInfo", link)
                remotes[canonical_address(nvml.as_text(info.busId))] += 1
            except NvmlError as error:
                if error.code not in (NvmlCode.NOT_SUPPORTED, NvmlCode.INVALID_ARGUMENT):
                    raise
                break  # no NVLink, or no further one
            except ValueError as error:
                raise NvmlError("nvmlDeviceGetNvLinkRemotePciInfo", NvmlCode.UNKNOWN, str(error)) from error
    except NvmlError as error:
        asker.fail(error, "NVLink peers")
    return dict(remotes)
