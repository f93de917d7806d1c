# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver a machine gets: the kind of kernel module, the packages, their versions, the kernels it is built for.

Pure: a machine and wishes in, a plan or the list of everything that stands against it out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..dkms.kernels import Kernel
from .families import LAST_PROPRIETARY, Seen, families_of
from .machine import Machine
from .stack import DEBIAN, FLAVOURS, STACKS, Package, Stack, branch_of, upstream

#: The branches that are taken where none is named. NVIDIA: supported to June 2028, and the last that drives every board
#: from Maxwell on; Debian has no other.
DEFAULT_BRANCH = {"debian": "550", "nvidia": "580"}
#: The first branch for which NVIDIA itself takes the open modules where a board can have either.
_OPEN_BY_DEFAULT = 560


@dataclass(frozen=True)
class Wishes:
    """What a site asks for; the words are those of the role's variables."""

    source: str = "debian"
    names: str = "nvidia"
    flavour: str = "auto"
    branch: str = ""
    version: str = ""
    fabric_manager: bool = False
    image: bool = False
    replace: bool = False
    hold_kernel: bool = True
    only_with_gpu: bool = False
    ignored_kernels: tuple[str, ...] = ()

    @property
    def stack(self) -> Stack:
        return STACKS[self.names if self.source == "local" else self.source]

    @property
    def wanted_branch(self) -> str:
        """As asked for; what the source has, where nothing is; empty where there is no telling."""
        named = str(branch_of(self.version) or "") or self.branch
        return named or ("" if self.source == "local" else DEFAULT_BRANCH[self.stack.name])


@dataclass(frozen=True)
class Plan:
    """*problems*: nothing may be done while there are any. *version_glob*: empty takes whatever the source offers.

    *wanted*: false where there is nothing to drive; there are no problems then.
    """

    stack: Stack
    flavour: str
    reason: str
    branch: str
    version_glob: str
    packages: tuple[str, ...]
    kernels: tuple[str, ...]
    ignored_kernels: tuple[str, ...]
    headers: tuple[str, ...]
    remove: tuple[str, ...]
    hold: tuple[str, ...]
    installed_version: str
    satisfied: bool
    wanted: bool
    problems: tuple[str, ...] = field(default=())

    @property
    def dkms_package(self) -> str:
        return self.stack.dkms_package[self.flavour]

    @property
    def module(self) -> str:
        return self.stack.module[self.flavour]


def make_plan(wishes: Wishes, machine: Machine) -> Plan:
    """Decide; see :class:`Plan`."""
    problems = [problem.message for problem in machine.problems]
    stack = wishes.stack
    # the GPU of a machine that builds an image is not the node's
    seen = () if wishes.image else families_of(machine.functions)
    branch = wishes.wanted_branch
    flavour, reason = _flavour(wishes, seen, branch)
    problems += _version_problems(wishes)
    problems += _board_problems(wishes, seen, flavour, branch)
    ignored = tuple(kernel.release for kernel in machine.kernels if _is_ignored(kernel, wishes.ignored_kernels))
    kernels = tuple(kernel for kernel in machine.kernels if kernel.release not in ignored)
    problems += _kernel_problems(machine.kernels, kernels)
    foreign = _foreign(stack, machine.packages)
    problems += _mixing_problems(wishes, stack, machine, foreign)
    packages = stack.packages(flavour, wishes.fabric_manager)
    other = machine.package(stack.other_flavour(flavour))
    remove = [package.name for package in foreign]
    if other and other.name not in remove:
        remove.append(other.name)
    dkms = machine.package(stack.dkms_package[flavour])
    if dkms in foreign:
        dkms = None
    glob = version_glob(wishes.version, branch)
    there = {package.name: package for package in machine.packages if package.status == "installed"}
    if not wishes.version and dkms and dkms.status == "installed" and matches(dkms.version, glob):
        # A branch says which driver comes, and not that one that is there moves, whatever else is to be installed.
        glob = version_glob(upstream(dkms.version), "")
    wanted = wishes.image or not wishes.only_with_gpu or bool(machine.gpus)
    headers = _headers(wishes, machine, kernels)
    # Of packages of one driver only the one that is named has the revision that is named.
    others = version_glob(upstream(wishes.version), "") if "-" in wishes.version else glob
    globs = {name: glob if name == stack.dkms_package[flavour] else others for name in packages}
    complete = all(name in there and matches(there[name].version, meant) for name, meant in globs.items())
    return Plan(
        stack=stack,
        flavour=flavour,
        reason=reason,
        branch=branch,
        version_glob=glob,
        packages=tuple(packages),
        kernels=tuple(kernel.release for kernel in kernels),
        ignored_kernels=ignored,
        headers=headers,
        remove=tuple(sorted(remove)),
        hold=(*packages, *stack.others, *(_kernel_packages(machine, headers) if wishes.hold_kernel else ())),
        installed_version=dkms.version if dkms and dkms.status == "installed" else "",
        satisfied=not remove and not machine.interrupted and complete,
        wanted=wanted,
        problems=tuple(problems) if wanted else (),
    )


def version_glob(version: str, branch: str) -> str:
    """What apt is asked for: ``580.126.09-*``, ``580.*``, or an exact version as it stands."""
    if version:
        return version if "-" in version else f"{version}-*"
    return f"{branch}.*" if branch else ""


def matches(version: str, glob: str) -> bool:
    """Whether the version of a package is one that *glob* means; an empty one means any."""
    if not glob:
        return True
    return re.fullmatch(re.escape(glob).replace(r"\*", ".*"), version) is not None


def _flavour(wishes: Wishes, seen: Sequence[Seen], branch: str) -> tuple[str, str]:
    number = int(branch) if branch.isdigit() else 0
    if wishes.flavour in FLAVOURS:
        return wishes.flavour, f"nvidia_gpu_drivers_flavour is {wishes.flavour}"
    if old := [one for one in seen if not one.family.open]:
        return "proprietary", f"there are no open modules for {_listed(old)}"
    if new := [one for one in seen if not one.family.proprietary]:
        return "open", f"there are no proprietary modules for {_listed(new)}"
    boards = _listed(seen) if seen else "no GPU to go by"
    if number > LAST_PROPRIETARY:
        return "open", f"{boards}, and branch {branch} has no proprietary modules"
    if wishes.stack is DEBIAN:
        return "proprietary", f"{boards}, and Debian's open modules do not build for the kernels of its updates"
    if number and number < _OPEN_BY_DEFAULT:
        return "proprietary", f"{boards}, and NVIDIA advises the open modules from branch {_OPEN_BY_DEFAULT} on"
    return "open", f"{boards}, and NVIDIA advises the open modules for all that can have them"


def _listed(seen: Sequence[Seen]) -> str:
    return " and ".join(map(str, seen))


def _version_problems(wishes: Wishes) -> list[str]:
    problems = []
    if wishes.version and not re.fullmatch(r"\d{3,}(\.\d+)+(-[\w.+~]+)?", wishes.version):
        problems.append(
            "nvidia_gpu_drivers_version must be a driver's version such as 580.126.09, or a package's such as "
            f"550.163.01-2; it is {wishes.version!r}."
        )
    if wishes.branch and not re.fullmatch(r"\d{3,}", wishes.branch):
        problems.append(f"nvidia_gpu_drivers_branch must be a number such as 580; it is {wishes.branch!r}.")
    elif wishes.version and wishes.branch and branch_of(wishes.version) != int(wishes.branch):
        problems.append(
            f"nvidia_gpu_drivers_version {wishes.version} is not of nvidia_gpu_drivers_branch {wishes.branch}; leave "
            "one of them out."
        )
    if wishes.source == "debian" and wishes.wanted_branch != DEFAULT_BRANCH["debian"]:
        problems.append(
            f"Debian 13 has branch {DEFAULT_BRANCH['debian']} only, and {wishes.wanted_branch} is asked for: take "
            "nvidia_gpu_drivers_source nvidia or local, or leave branch and version out."
        )
    if wishes.fabric_manager and not wishes.stack.fabric:
        problems.append(
            "nvidia_gpu_drivers_fabric_manager is true, but Debian has no fabric manager, and it must have exactly the "
            "driver's version: take nvidia_gpu_drivers_source nvidia or local."
        )
    return problems


def _board_problems(wishes: Wishes, seen: Sequence[Seen], flavour: str, branch: str) -> list[str]:
    problems = []
    number = int(branch) if branch.isdigit() else 0
    for one in seen:
        family = one.family
        if not (family.open if flavour == "open" else family.proprietary):
            mixed = f" The other boards are {_listed([x for x in seen if x is not one])}." if len(seen) > 1 else ""
            problems.append(
                f"{one} can't be driven by {flavour} modules: NVIDIA makes only "
                f"{'proprietary' if flavour == 'open' else 'open'} ones for that family.{mixed} "
                + _way_out_of_flavour(wishes, seen)
            )
        if number and number < family.first:
            problems.append(
                f"{one} needs branch {family.first} or later; {branch} would be installed. {_newer(wishes)}"
            )
        if number and family.last and number > family.last:
            problems.append(
                f"{one} is driven by branches up to {family.last} only; {branch} would be installed. "
                f"Set nvidia_gpu_drivers_branch to {family.last} or take the board out."
            )
    if flavour == "proprietary" and number > LAST_PROPRIETARY:
        problems.append(
            f"Branch {branch} has no proprietary modules, the last with them is {LAST_PROPRIETARY}. Set "
            "nvidia_gpu_drivers_flavour to open, or take nvidia_gpu_drivers_branch 580."
        )
    return problems


def _way_out_of_flavour(wishes: Wishes, seen: Sequence[Seen]) -> str:
    if any(not one.family.open for one in seen) and any(not one.family.proprietary for one in seen):
        return "No driver serves both kinds of board in one machine: take one kind out."
    return f"Set nvidia_gpu_drivers_flavour to auto; it is {wishes.flavour}."


def _newer(wishes: Wishes) -> str:
    if wishes.source == "debian":
        return "Debian 13 has no later one: set nvidia_gpu_drivers_source to nvidia, or to local."
    return "Set nvidia_gpu_drivers_branch accordingly."


def _is_ignored(kernel: Kernel, patterns: Sequence[str]) -> bool:
    return any(matches(kernel.release, pattern) for pattern in patterns)


def _kernel_problems(everything: Sequence[Kernel], kernels: Sequence[Kernel]) -> list[str]:
    if not everything:
        return [
            "No kernel is installed, so there is nothing to build a module for. Install one (linux-image-amd64, or "
            "linux-image-cloud-amd64) and, unless this is an image, reboot into it."
        ]
    if not kernels:
        return [
            f"nvidia_gpu_drivers_ignored_kernels leaves none of the installed kernels "
            f"({', '.join(kernel.release for kernel in everything)})."
        ]
    realtime = [kernel.release for kernel in kernels if "-rt-" in kernel.release]
    if realtime:
        return [
            f"The driver can't be built for real-time kernels, and {', '.join(realtime)} is installed. Remove it "
            f"(apt-get purge linux-image-{realtime[0]}), or name it in nvidia_gpu_drivers_ignored_kernels."
        ]
    return []


def _headers(wishes: Wishes, machine: Machine, kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """Headers of every kernel, and of those that a kernel upgrade will bring, unless kernels are held anyway."""
    exact = [kernel.headers_package for kernel in kernels]
    if wishes.hold_kernel:
        return tuple(exact)
    metas = [package.name for package in machine.packages if re.fullmatch(r"linux-image-(\w+-)?amd64", package.name)]
    return (*exact, *(name.replace("image", "headers", 1) for name in sorted(metas)))


def _kernel_packages(machine: Machine, headers: Sequence[str]) -> list[str]:
    """What brings kernels and their headers, those that are there and *headers*, which will be."""
    there = {
        package.name
        for package in machine.packages
        # common headers follow those of the flavour
        if re.match(r"linux-(image|headers)-", package.name) and not package.name.endswith(("-common", "-dbg"))
    }
    return sorted(there | set(headers))


def _foreign(stack: Stack, packages: Sequence[Package]) -> list[Package]:
    """Parts of a driver that the other stack brought. A package of a site's own counts as NVIDIA's."""
    return [package for package in packages if package.driver_part and package.debian != (stack is DEBIAN)]


def _mixing_problems(wishes: Wishes, stack: Stack, machine: Machine, foreign: Sequence[Package]) -> list[str]:
    problems = []
    if machine.runfile:
        problems.append(
            "The driver on this machine came from NVIDIA's self-extracting installer, which apt knows nothing of. "
            "Remove it first: nvidia-uninstall --silent."
        )
    if foreign and not wishes.replace:
        theirs = "NVIDIA's" if stack is DEBIAN else "Debian's"
        ours = "Debian's" if stack is DEBIAN else "NVIDIA's"
        problems.append(
            f"{theirs} driver packages are installed ({', '.join(f'{p.name} {p.version}' for p in foreign)}), and "
            f"{ours} are asked for. They share names and do not fit together. Keep what is there "
            f"(nvidia_gpu_drivers_source {'nvidia' if stack is DEBIAN else 'debian'}), or set "
            "nvidia_gpu_drivers_replace to true to have them removed."
        )
    return problems
