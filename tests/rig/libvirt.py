# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What virtual machines need of this machine: QEMU, an accelerator if there is one, and a libvirt that runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .process import RigError, run, wait_for

_QEMU = "qemu-system-x86_64"
_SYSTEM = ("virsh", "--connect", "qemu:///system")
_SETTINGS = Path("/etc/libvirt/qemu.conf")
_OWN_USER = '\n# "./run test vm" started libvirt by hand; machines run as root\nuser = "root"\ngroup = "root"\n'


@dataclass(frozen=True)
class Accelerator:
    """How QEMU runs a machine: libvirt's domain type and the processor that a machine sees."""

    domain: str
    mode: str


def accelerator() -> Accelerator:
    """KVM where a machine really starts with it, else emulation.

    That ``/dev/kvm`` exists says little: in a container it may be another kind of KVM than a guest's kernel can use.

    :raises RigError: this machine can't run QEMU at all.
    """
    if not shutil.which(_QEMU):
        raise RigError(f"expected the command {_QEMU}, found none: install qemu-system-x86")
    if not _starts("tcg"):
        raise RigError(f"{_QEMU} does not start a machine even without an accelerator; try: {' '.join(_probe('tcg'))}")
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and _has_kvm():
        return Accelerator("kvm", "host-passthrough")
    return Accelerator("qemu", "custom")


def ensure() -> None:
    """Start libvirt and its default network where they don't run.

    :raises RigError: they don't come up.
    """
    if run([*_SYSTEM, "version"], check=False).returncode != 0:
        _start()
    networks = run([*_SYSTEM, "net-list", "--name"]).stdout.split()
    if "default" not in networks:
        run([*_SYSTEM, "net-start", "default"])


def _start() -> None:
    if Path("/run/systemd/system").is_dir():
        run(["systemctl", "start", "libvirtd.service"])
    else:
        # a libvirt that drops its rights probes /dev/kvm anew, for seconds, at every call
        settings = _SETTINGS.read_text(encoding="utf-8") if _SETTINGS.exists() else ""
        if _OWN_USER not in settings:
            _SETTINGS.write_text(settings + _OWN_USER, encoding="utf-8")
        run(["/usr/sbin/virtlogd", "--daemon"], check=False)  # it runs already, or the next command tells what is wrong
        run(["/usr/sbin/libvirtd", "--daemon"])
    wait_for("libvirt to answer", lambda: run([*_SYSTEM, "version"], check=False).returncode == 0, seconds=30)


def _probe(kind: str) -> list[str]:
    return [_QEMU, "-accel", kind, "-machine", "none", "-display", "none", "-nodefaults", "-S", "-monitor", "stdio"]


def _starts(kind: str) -> bool:
    return run(_probe(kind), check=False, stdin="quit\n", timeout=60).returncode == 0


def _has_kvm() -> bool:
    """Whether the processor itself can do it and the kernel uses that."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    modules = [Path("/sys/module") / name for name in ("kvm_intel", "kvm_amd")]
    return (" vmx" in flags or " svm" in flags) and any(path.exists() for path in modules) and _starts("kvm")
