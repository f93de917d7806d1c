# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian 13 that an image begins with: what a cloud image has, with the kernel for machines with real hardware."""

from __future__ import annotations

from pathlib import Path

from rig import archive, base
from rig.process import run

from . import disk

#: Like Debian's ``generic`` cloud image without what only a desktop user misses. The full kernel and not the cloud's,
#: which lacks drivers that a machine with GPUs needs (IPMI, EDAC, P2PDMA).
PACKAGES = (
    "apparmor",
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "iproute2",
    "kmod",
    "linux-image-amd64",
    "netplan.io",
    "openssh-server",
    "pciutils",
    "python3",
    "python3-apt",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
    "zstd",
    *disk.PACKAGES,
)


def ensure() -> Path:
    """The root file system, from the cache when there is one of this recipe (else about a minute).

    :raises RigError: it cannot be built; the message carries the end of the log.
    """
    source = archive.of_this_machine()
    return base.cached(
        "bootable", repr((PACKAGES, source, base.DATE, "2")), lambda root, log: _build(root, source, log)
    )


def _build(root: Path, source: archive.Archive, log: Path) -> None:
    base.bootstrap(root, PACKAGES, source, log)
    # netplan, which cloud-init writes for, starts networkd where there is work for it; a container has no netplan
    run(["chroot", root, "systemctl", "--quiet", "enable", "systemd-networkd.service", "systemd-resolved.service"])
    for path in (root / "etc/hostname", *(root / "etc/ssh").glob("ssh_host_*")):
        path.unlink()  # of the machine that built this
