# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All GPUs of a machine: what sysfs shows and what the driver says, joined by PCI address.

The two must agree. Where they don't, the difference is what keeps a GPU from being used, and it is told as a problem
with its cause: no driver bound, another driver bound, a driver that does not answer, a GPU that fell off the bus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..mig import catalog
from . import nvml
from .devfiles import Minors, gpu_files, read_minors, with_files
from .driver import DriverGpu, DriverReport, read_driver
from .model import Gpu, GpuInstance, Inventory, MigState, Problem
from .nvml import Loader, NvmlCode
from .pci import PciFunction, address_key, scan
from .troubles import advice, gpu_trouble

_DRIVER = "nvidia"

# That these are missing matters only where a GPU needs them.
_ABSENCE = ("pynvml_missing", "nvml_library_missing")

_PROC_VERSION = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")


def read_inventory(root: Path = Path("/"), load: Loader = nvml.load_pynvml) -> Inventory:
    """Read sysfs, ``/proc`` and ``/dev`` below *root*, and ask the driver of the running machine.

    Never fails because something is absent: no GPU is an empty list, anything else one of :attr:`Inventory.problems`.
    """
    functions, problems = scan(root)
    present = {function.address: function for function in functions if function.is_gpu}
    report = read_driver(load)
    driven = {gpu.pci_address: gpu for gpu in report.gpus}
    problems += _machine_problems(present, driven, report, root)
    problems += report.problems
    builder = _GpuBuilder(root, present, driven)
    gpus = [builder.build(address) for address in sorted({*present, *driven}, key=address_key)]
    return Inventory(
        gpus=tuple(gpus),
        nvswitch_count=len(functions) - len(present),
        driver_version=report.driver_version or _module_version(root),
        nvml_version=report.nvml_version,
        problems=(*problems, *builder.problems),
    )


def _machine_problems(
    present: dict[str, PciFunction], driven: dict[str, DriverGpu], report: DriverReport, root: Path
) -> list[Problem]:
    """Why the driver doesn't speak of GPUs that are there, and the reverse."""
    problems: list[Problem] = []
    silent = [function for address, function in present.items() if address not in driven]
    bound = [function.address for function in silent if function.kernel_driver == _DRIVER]
    problems += _unbound([function.address for function in silent if function.kernel_driver is None], root)
    problems += _wrongly_bound(function for function in silent if function.kernel_driver not in (None, _DRIVER))
    if report.failure is not None:
        if bound or driven or (report.failure.code not in _ABSENCE and _kernel_module_loaded(root)):
            problems.append(_with_versions(report.failure, root))
    else:
        problems += _lost(bound, report)
    for address in driven:
        if address not in present:
            problems.append(
                Problem(
                    "sysfs_unreadable",
                    f"the NVIDIA driver lists GPU {address}, but {root / 'sys/bus/pci/devices'} does not show it: its "
                    "NUMA node and CPUs are not known; give the container the host's /sys",
                    address,
                )
            )
    return problems


def _unbound(addresses: list[str], root: Path) -> list[Problem]:
    if not addresses:
        return []
    loaded = _kernel_module_loaded(root)
    found = "the nvidia module is loaded but refused it" if loaded else "the nvidia module is not loaded"
    todo = (
        "see why in the kernel log (journalctl -k, lines with NVRM): an open module on a board before Turing and a "
        "driver older than the board are the common reasons"
        if loaded
        else "install the NVIDIA driver for the running kernel (on Debian nvidia-driver or nvidia-open-kernel-dkms) "
        "and load it (modprobe nvidia)"
    )
    return [
        Problem(
            "driver_missing",
            f"{_these(addresses)} present but has no kernel driver ({found}): {todo}",
            addresses[0] if len(addresses) == 1 else None,
        )
    ]


def _wrongly_bound(functions: Iterable[PciFunction]) -> list[Problem]:
    by_driver: dict[str, list[str]] = {}
    for function in functions:
        by_driver.setdefault(str(function.kernel_driver), []).append(function.address)
    problems = []
    for driver, addresses in by_driver.items():
        if driver == "vfio-pci":
            todo = "it is reserved for a virtual machine; give it back (driverctl unset-override) to use it here"
        else:
            todo = f"keep {driver} from loading (a 'blacklist {driver}' line in /etc/modprobe.d) and reboot"
        problems.append(
            Problem(
                "wrong_kernel_driver",
                f"{_these(addresses)} bound to the kernel driver {driver}, expected nvidia: {todo}",
                addresses[0] if len(addresses) == 1 else None,
            )
        )
    return problems


def _lost(bound: list[str], report: DriverReport) -> list[Problem]:
    """GPUs that the driver is bound to but doesn't list, matched with the failures of those it can't even name."""
    nameless = report.nameless
    codes = {error.code for error in nameless}
    reasons = "; ".join(dict.fromkeys(str(error) for error in nameless))
    if bound and len(codes) == 1 and len(nameless) >= len(bound):
        return [gpu_trouble(nameless[0], "state", address) for address in bound]
    if bound:
        return [
            Problem(
                "gpu_unreadable",
                f"GPU {address} is bound to the nvidia driver, but the driver does not list it"
                + (f" ({reasons})" if reasons else "")
                + f": it failed to start or was excluded; {advice(NvmlCode.UNKNOWN)}",
                address,
            )
            for address in bound
        ]
    if nameless:
        code = NvmlCode.GPU_IS_LOST if NvmlCode.GPU_IS_LOST in codes else NvmlCode.UNKNOWN
        return [
            Problem(
                "gpu_lost" if code == NvmlCode.GPU_IS_LOST else "gpu_unreadable",
                f"the NVIDIA driver counts {len(nameless)} GPU(s) that it can't read and sysfs does not show: "
                f"{reasons}; {advice(code)}",
            )
        ]
    return []


def _these(addresses: list[str]) -> str:
    return f"GPU {addresses[0]} is" if len(addresses) == 1 else f"each of the GPUs {', '.join(addresses)} is"


def _with_versions(problem: Problem, root: Path) -> Problem:
    if problem.code != "version_mismatch":
        return problem
    loaded = _module_version(root) or "of unknown version"
    return replace(
        problem,
        message=f"{problem.message}; the loaded module is {loaded}: reboot after a driver "
        "update (or unload and load the module), and keep kernel driver and libraries at one version",
    )


def _kernel_module_loaded(root: Path) -> bool:
    return (root / "sys/module" / _DRIVER).is_dir() or _module_version(root) is not None


def _module_version(root: Path) -> str | None:
    """Version of the loaded kernel module, ``None`` when none is."""
    # Absence is the usual answer on a machine without a driver. Where both are unreadable nothing depends on it.
    try:
        match = _PROC_VERSION.search(
            (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        )
        if match:
            return match.group(1)
    except OSError:
        pass
    try:
        return (root / "sys/module/nvidia/version").read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


class _GpuBuilder:
    """Makes one :class:`Gpu` of both sources and collects what is wrong with it."""

    def __init__(self, root: Path, present: dict[str, PciFunction], driven: dict[str, DriverGpu]) -> None:
        self._root = root
        self._present = present
        self._driven = driven
        self._minors: Minors | None = None
        self.problems: list[Problem] = []

    def build(self, address: str) -> Gpu:
        gpu = self._bare(address)
        board = catalog.board_for(gpu.device_id)
        # Without a driver's word the catalogue's, which lists MIG capable boards only.
        gpu = replace(gpu, board=board.key if board else None, mig=MigState(capable=board is not None))
        driven = self._driven.get(address)
        if driven is None:
            return gpu
        instances = tuple(_named(instance, board) for instance in driven.gpu_instances)
        files: tuple[str, ...] = ()
        if driven.minor is not None:
            files, missing = gpu_files(driven.minor, gpu.pci_address, self._root)
            self.problems += missing
            if any(instance.compute_instances for instance in instances):
                instances, missing = with_files(
                    instances, driven.minor, self._read_minors(), gpu.pci_address, self._root
                )
                self.problems += missing
        gpu = replace(
            gpu,
            index=driven.index,
            minor=driven.minor,
            uuid=driven.uuid,
            name=driven.name,
            memory_mib=driven.memory_mib,
            nvlink_peers={
                remote: links
                for remote, links in sorted(driven.nvlink_remotes.items())
                if (remote in self._present or remote in self._driven) and remote != address
            },
            mig=driven.mig or gpu.mig,
            gpu_instances=instances,
            device_files=files,
        )
        self._judge_mig(gpu, driven.instances_complete)
        return gpu

    def _bare(self, address: str) -> Gpu:
        function = self._present.get(address)
        if function is None:
            told = self._driven[address]
            return Gpu(
                pci_address=address,
                vendor_id=told.vendor_id,
                device_id=told.device_id,
                subsystem_vendor_id=told.subsystem_vendor_id,
                subsystem_device_id=told.subsystem_device_id,
            )
        return Gpu(
            pci_address=address,
            vendor_id=function.vendor_id,
            device_id=function.device_id,
            subsystem_vendor_id=function.subsystem_vendor_id,
            subsystem_device_id=function.subsystem_device_id,
            class_code=function.class_code,
            kernel_driver=function.kernel_driver,
            numa_node=function.numa_node,
            cpu_affinity=function.cpu_affinity,
            iommu_group=function.iommu_group,
        )

    def _read_minors(self) -> Minors:
        if self._minors is None:
            self._minors = read_minors(self._root)
            if self._minors.problem is not None:
                self.problems.append(self._minors.problem)
        return self._minors

    def _judge_mig(self, gpu: Gpu, instances_complete: bool) -> None:
        name = gpu.name or gpu.device_id
        if gpu.mig.capable and gpu.mig.current is not None and gpu.board is None:
            self._problem(
                gpu,
                "board_unknown",
                f"GPU {gpu.pci_address} ({name}, PCI id {gpu.vendor_id}:{gpu.device_id}) is MIG capable, but the MIG "
                "catalogue does not know the board: what its driver says is used, and it can't be planned for without "
                "the hardware; report its 'nvidia-smi mig -lgip' and '-lgipp' to get it added",
            )
        if gpu.mig.current is not None and gpu.mig.current != gpu.mig.pending:
            wanted = "on" if gpu.mig.pending else "off"
            self._problem(
                gpu,
                "mode_change_pending",
                f"MIG mode of GPU {gpu.pci_address} is to go {wanted} but has not yet: reset the GPU "
                f"(nvidia-smi --gpu-reset -i {gpu.pci_address}, nothing may use it) or reboot the machine",
            )
        if gpu.mig.current and instances_complete and not any(one.compute_instances for one in gpu.gpu_instances):
            self._problem(
                gpu,
                "mig_without_instances",
                f"MIG is on for GPU {gpu.pci_address} but it has no compute instance, so no job can use it (Slurm "
                "would offer it as a whole GPU all the same): create instances (nvidia-smi mig -cgi PROFILES -C) or "
                "turn MIG off (nvidia-smi -mig 0)",
            )

    def _problem(self, gpu: Gpu, code: str, message: str) -> None:
        self.problems.append(Problem(code, message, gpu.pci_address))


def _named(instance: GpuInstance, board: catalog.Board | None) -> GpuInstance:
    """The instance with the catalogue's profile name where the driver gave none."""
    profile = board.profile(instance.profile_id) if board and instance.profile is None else None
    return instance if profile is None else replace(instance, profile=profile.name)
