# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the driver on disk and the driver in the running kernel stand to each other, and what that asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..dkms.tree import installed_version, is_what_loads
from ..mig.holders import KNOWN_SERVICES, Holder, holders
from .machine import Machine, Run

#: Drivers that keep ours from a GPU until a boot without them. vfio-pci is none: such a GPU is a guest's.
_RIVALS = ("nouveau", "nvidiafb", "nova_core")
#: ``/proc/driver/nvidia/params`` names parameters without the prefix, and this one otherwise:
#: https://developer.nvidia.com/ERR_NVGPUCTRPERM
_PREFIX = "NVreg_"
_OTHER_NAMES = {"RestrictProfilingToAdminUsers": "RmProfilingAdminOnly"}


@dataclass(frozen=True)
class State:
    """*on_disk*: version of the module file by kernel, ``None`` where there is no such file.

    *reboot*: sentences that say why a reboot is needed. *stale_initramfs*: kernels whose initramfs is older than the
    settings it carries a copy of. *passthrough*: the GPUs belong to a host, this is a guest.
    """

    on_disk: dict[str, str | None]
    reboot: tuple[str, ...]
    stale_initramfs: tuple[str, ...]
    passthrough: bool
    users: tuple[Holder, ...] = field(default=())


def module_versions(
    run: Run, module: str, kernels: Sequence[str], root: Path = Path("/"), quick: bool = False
) -> dict[str, str | None]:
    """The version of the module's file for each kernel, as ``modinfo`` says it.

    :param quick: where the file that would be loaded is the one that dkms built, take dkms's word for its version;
        modinfo unpacks a driver for about a second.
    """
    found: dict[str, str | None] = {}
    for kernel in kernels:
        if quick and is_what_loads(root, module, kernel) and (known := installed_version(root, module, kernel)):
            found[kernel] = known
            continue
        code, told, _ = run(["modinfo", "-k", kernel, "-F", "version", module])
        found[kernel] = told.strip() or None if code == 0 else None
    return found


def read_state(
    run: Run,
    machine: Machine,
    module: str,
    flavour: str,
    kernels: Sequence[str],
    settings: Path,
    root: Path = Path("/"),
    quick: bool = False,
    options: Mapping[str, object] | None = None,
) -> State:
    """Look; change nothing. *settings*: the file that an initramfs must not be older than.

    *quick*: see :func:`module_versions`. *options*: parameters that the kernel module is to be loaded with.
    """
    versions = module_versions(run, module, kernels, root, quick)
    # One that did not count at the last boot, as something else overrides it, won't at the next.
    awaited = options if options and _changed_since_boot(settings, root) else {}
    return State(
        on_disk=versions,
        reboot=tuple(reboot_reasons(machine, flavour, versions, awaited)),
        stale_initramfs=tuple(stale_initramfs(root, kernels, settings)),
        passthrough=machine.virtual and bool(machine.gpus),
        users=tuple(
            holder for holder in holders(None, root / "proc", Path("/dev")) if holder.service not in KNOWN_SERVICES
        ),
    )


def reboot_reasons(
    machine: Machine, flavour: str, on_disk: dict[str, str | None], options: Mapping[str, object] | None = None
) -> list[str]:
    """Why this machine has to boot again before its GPUs work with what is installed; none without a GPU."""
    if not machine.gpus:
        return []
    reasons = []
    running = machine.running_kernel
    taken = sorted({one.kernel_driver for one in machine.gpus if one.kernel_driver and one.kernel_driver in _RIVALS})
    if machine.loaded is not None:
        version = on_disk.get(running) or next((one for one in on_disk.values() if one), None)
        if version and version != machine.loaded.version:
            reasons.append(f"driver {machine.loaded.version} is loaded and {version} is installed")
        elif machine.loaded.flavour != flavour:
            reasons.append(f"the {machine.loaded.flavour} modules are loaded and the {flavour} ones are installed")
        reasons += _other_options(machine.parameters, options or {})
    elif on_disk.get(running) is None:
        reasons.append(f"the module is not there for the running kernel {running}")
    if taken:
        reasons.append(f"GPUs are bound to {', '.join(taken)}")
    return reasons


def _changed_since_boot(settings: Path, root: Path) -> bool:
    """Whether the file is younger than the running system (``btime``, seconds)."""
    try:
        stat = (root / "proc/stat").read_text(encoding="ascii")
        return settings.stat().st_mtime > int(stat.partition("\nbtime ")[2].split()[0])
    except (OSError, IndexError, ValueError):  # no file, or no /proc: nothing is known to have changed
        return False


def _other_options(loaded: Mapping[str, str], options: Mapping[str, object]) -> list[str]:
    """Numbers that the driver was loaded with and that are to be others.

    What the driver does not tell is taken for right: there are parameters that it keeps to itself.
    """
    reasons = []
    for name, wanted in sorted(options.items()):
        bare = name.removeprefix(_PREFIX)
        found = loaded.get(_OTHER_NAMES.get(bare, bare))
        numbers = [_number(text) for text in (found, str(int(wanted) if isinstance(wanted, bool) else wanted))]
        if None not in numbers and numbers[0] != numbers[1]:
            reasons.append(f"{name} is {found} in the loaded driver and {wanted} is set")
    return reasons


def _number(text: str | None) -> int | None:
    """As the driver keeps it, in 32 bits without a sign; ``None`` for anything else."""
    try:
        return int(text or "", 0) % 2**32
    except ValueError:
        return None


def stale_initramfs(root: Path, kernels: Sequence[str], settings: Path) -> list[str]:
    """Kernels whose initramfs was made before *settings* was written."""
    if not settings.exists():
        return []
    written = settings.stat().st_mtime
    images = {kernel: root / "boot" / f"initrd.img-{kernel}" for kernel in kernels}
    return [kernel for kernel, image in images.items() if image.exists() and image.stat().st_mtime < written]


def wrong_on_disk(module: str, version: str, on_disk: dict[str, str | None]) -> str | None:
    """What to say when a kernel has not *version* of the module; ``None`` when all have, or none is required."""
    wrong = {kernel: found for kernel, found in on_disk.items() if version and found != version}
    if not wrong:
        return None
    told = ", ".join(f"{found or 'no module'} for {kernel}" for kernel, found in wrong.items())
    return (
        f"expected version {version} of the module {module} for every kernel, found {told}. See 'dkms status' and "
        f"'modinfo -k {next(iter(wrong))} {module}'; a module of the same name elsewhere in /lib/modules comes first"
    )
