# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two families of packages that a driver can come from, Debian's and NVIDIA's, and what each calls its parts.

They share names (``libcuda1``, ``nvidia-kernel-dkms``) for packages that do not fit together, so a machine has one of
them and never both. All lists are for a node without a screen: no X server, no desktop libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FLAVOURS = ("open", "proprietary")


@dataclass(frozen=True)
class Stack:
    """*dkms_package* and *module* by flavour; *module* is the DKMS name and that of the module's file.

    *versioned*: packages that carry the driver's version. *others*: needed, with versions of their own.
    """

    name: str
    dkms_package: Mapping[str, str]
    module: Mapping[str, str]
    versioned: tuple[str, ...]
    others: tuple[str, ...]
    fabric: tuple[str, ...]
    cuda: tuple[str, ...]
    components: tuple[str, ...]

    def packages(self, flavour: str, fabric: bool = False) -> list[str]:
        """Those that have the driver's version, the DKMS package first."""
        return [self.dkms_package[flavour], *self.versioned, *(self.fabric if fabric else ())]

    def other_flavour(self, flavour: str) -> str:
        """The DKMS package that must not be there: both would build the same module."""
        return next(package for kind, package in self.dkms_package.items() if kind != flavour)


DEBIAN = Stack(
    name="debian",
    dkms_package={"proprietary": "nvidia-kernel-dkms", "open": "nvidia-open-kernel-dkms"},
    module={"proprietary": "nvidia-current", "open": "nvidia-current-open"},
    versioned=(
        "firmware-nvidia-gsp",
        "libcuda1",
        "libnvidia-cfg1",
        "libnvidia-ml1",
        "libnvidia-ptxjitcompiler1",
        "nvidia-cuda-mps",
        "nvidia-driver-bin",
        "nvidia-persistenced",
        "nvidia-smi",
    ),
    others=("nvidia-modprobe",),
    fabric=(),  # Debian has no fabric manager
    cuda=("nvidia-cuda-toolkit",),
    components=("contrib", "non-free", "non-free-firmware"),
)
NVIDIA = Stack(
    name="nvidia",
    dkms_package={"proprietary": "nvidia-kernel-dkms", "open": "nvidia-kernel-open-dkms"},
    module={"proprietary": "nvidia", "open": "nvidia"},
    versioned=("nvidia-driver-cuda", "nvidia-modprobe", "nvidia-persistenced"),
    others=(),
    fabric=("nvidia-fabricmanager", "libnvidia-nscq"),
    cuda=("cuda-toolkit",),
    components=(),
)
STACKS = {stack.name: stack for stack in (DEBIAN, NVIDIA)}

#: Debian's packages that must not come in beside NVIDIA's, and the other way round, as apt's preferences name them.
DRIVER_NAMES = (
    "firmware-nvidia*",
    "libcuda1",
    "libcudadebugger1",
    "libnvcuvid1",
    "libnvidia-*",
    "libnvoptix1",
    "nvidia-*",
    "xserver-xorg-video-nvidia*",
)

# Not parts of a driver, though called like one; each lives beside either stack.
_BESIDE = re.compile(
    r"libnvidia-container|nvidia-container|nvidia-ctk|nvidia-cuda-(toolkit|dev|doc|gdb)|nvidia-installer-cleanup"
    r"|nvidia-support|libnvidia-egl|nvidia-driver-pinning|nvidia-dcgm|nvidia-nsight|nvidia-visual|nvidia-profiler"
)
_PART = re.compile(r"(nvidia-|libnvidia-|xserver-xorg-video-nvidia|firmware-nvidia|libcuda1$|cuda-drivers)")


@dataclass(frozen=True)
class Package:
    """An installed (or half-installed) package, as dpkg knows it."""

    name: str
    version: str
    status: str
    maintainer: str

    @property
    def debian(self) -> bool:
        """Whether Debian made it. Others may well use Debian's names, but not Debian's addresses."""
        return "debian.org" in self.maintainer

    @property
    def driver_part(self) -> bool:
        return _PART.match(self.name) is not None and _BESIDE.match(self.name) is None


#: What ``dpkg-query --show --showformat`` is given for :func:`parse_packages`.
SHOW_FORMAT = "${Package}\\t${Version}\\t${db:Status-Status}\\t${Maintainer}\\n"


def parse_packages(text: str) -> list[Package]:
    """Read what dpkg-query printed; what is not installed in any way is left out."""
    found = []
    for line in text.splitlines():
        name, version, status, maintainer = line.split("\t", 3)
        if status not in ("not-installed", "config-files"):
            found.append(Package(name, version, status, maintainer))
    return found


def upstream(version: str) -> str:
    """The driver's own version in that of a package: no epoch, no revision."""
    return version.partition(":")[2 if ":" in version else 0].rpartition("-")[0] or version


def branch_of(version: str) -> int:
    """The branch of a driver's version; 0 where there is no telling."""
    match = re.match(r"(\d{3,})\b", version)
    return int(match[1]) if match else 0
