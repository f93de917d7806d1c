# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a driver has to do with on a machine: boards, kernels, packages, and the driver that is there or loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..dkms.kernels import Kernel, installed_kernels
from ..dkms.proof import INTERRUPTED_MARK, NO_AUTOINSTALL
from ..gpu.model import Problem
from ..gpu.pci import PciFunction, scan
from .stack import SHOW_FORMAT, Package, parse_packages

#: Runs a command; exit code, standard output, standard error. A missing command is exit code 127.
Run = Callable[[Sequence[str]], tuple[int, str, str]]

_LOADED = re.compile(r"^NVRM version: (.*?)\s+(\d+(?:\.\d+)+)\s", re.MULTILINE)
#: What ``nvidia-uninstall`` of NVIDIA's self-extracting installer leaves, and takes along when it is run.
_RUNFILE = "usr/bin/nvidia-uninstall"
#: One parameter a line of ``/proc/driver/nvidia/params``, a text in double quotes.
_PARAMETER = re.compile(r"^(\w+): (.*)$", re.MULTILINE)
_PATTERNS = ("*nvidia*", "libcuda1", "cuda-drivers*", "linux-image-*", "linux-headers-*", "hpc-compute-nvml-library")


@dataclass(frozen=True)
class Loaded:
    """The driver in the running kernel."""

    version: str
    open: bool

    @property
    def flavour(self) -> str:
        return "open" if self.open else "proprietary"


@dataclass(frozen=True)
class Machine:
    """See :func:`read_machine`. *functions*: GPUs and NVSwitches. *interrupted*: a run was killed.

    *managed_switches*: adapters that manage NVSwitches which are no functions of the PCI bus, as from Blackwell on.
    *parameters*: of the loaded driver, under the names of ``/proc/driver/nvidia/params``.
    """

    functions: tuple[PciFunction, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    packages: tuple[Package, ...] = ()
    loaded: Loaded | None = None
    runfile: bool = False
    virtual: bool = False
    running_kernel: str = ""
    interrupted: bool = False
    managed_switches: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def gpus(self) -> tuple[PciFunction, ...]:
        return tuple(function for function in self.functions if function.is_gpu)

    @property
    def nvswitches(self) -> int:
        """How many ways there are to NVSwitches; 0 where there are none."""
        return len(self.functions) - len(self.gpus) + self.managed_switches

    def package(self, name: str) -> Package | None:
        """The package of that name if it is there, finished or not."""
        return next((package for package in self.packages if package.name == name), None)


def read_machine(run: Run, root: Path = Path("/"), release: str = "") -> Machine:
    """Look at the machine below *root*; *release* is what ``uname -r`` says. No driver is needed."""
    functions, problems = scan(root)
    # 1: some pattern matches no package
    _, told, _ = run(["dpkg-query", "--show", "--showformat", SHOW_FORMAT, *_PATTERNS])
    return Machine(
        functions=tuple(functions),
        kernels=tuple(installed_kernels(root)),
        packages=tuple(parse_packages(told)),
        loaded=parse_loaded(_text(root / "proc/driver/nvidia/version")),
        runfile=(root / _RUNFILE).exists(),
        virtual=re.search(r"^flags\s*:.*\bhypervisor\b", _text(root / "proc/cpuinfo"), re.MULTILINE) is not None,
        running_kernel=release,
        interrupted=INTERRUPTED_MARK in _text(root / NO_AUTOINSTALL),
        managed_switches=_managed_switches(root),
        parameters=dict(_PARAMETER.findall(_text(root / "proc/driver/nvidia/params"))),
        problems=tuple(problems),
    )


def parse_loaded(text: str) -> Loaded | None:
    """Read ``/proc/driver/nvidia/version``; ``None`` for an empty one, which is that of a machine without it."""
    match = _LOADED.search(text)
    return Loaded(match[2], "Open" in match[1]) if match else None


def _managed_switches(root: Path) -> int:
    """Network adapters that say in their vital product data that they manage NVSwitches.

    The same question as that of ``_assert_nvlink5_system`` in NVIDIA's gpu-driver-container.
    """
    return sum(
        b"SW_MNG" in path.read_bytes() for path in root.glob("sys/class/infiniband/*/device/vpd") if path.is_file()
    )


def _text(path: Path) -> str:
    """The text, or none: a file that is not there is an answer."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
