# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is looked at before a machine is touched; each sentence says what was expected, found, and to be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .apply import in_use_sentence
from .files import BUILD_OPTIONS
from .mounts import read
from .release import AUTOBUILD_PACKAGE, SERVER_PACKAGES, Release, ReleaseError

#: What may be given for all mounts, and for each of them.
COMMON = (
    "authentication",
    "conn_auth",
    "rdma",
    "rdma_interfaces",
    "interfaces",
    "net_filter",
    "tcp_only_filter",
    "options",
    "settings",
    "settings_unchecked",
)
#: Packages that are asked for on a machine.
PACKAGES = (
    *SERVER_PACKAGES,
    AUTOBUILD_PACKAGE,
    "beegfs-client-dkms",
    "beegfs-helperd",
    "beegfs-common",
    "beegfs-utils",
    "beegfs-tools",
)


def problems(given: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong.

    :param given: ``version``, ``mounts``, those of COMMON, ``packages_extra``, ``build_options``, ``kernel_check``,
        ``remount`` and ``image``, as the role's variables without their prefix.
    :param machine: ``packages`` (name to version) and ``kernels`` (releases) that are installed on it, and ``in_use``,
        who uses each of its mounts.
    """
    try:
        release = Release.parse(str(given["version"]))
    except ReleaseError as error:
        return [str(error)]
    image = bool(given.get("image"))
    _, told = read(
        given.get("mounts") or [],
        {name: given[name] for name in COMMON if name in given},
        release,
        secrets=not image,
    )
    told += _packages(given, machine)
    told += _kernels(given, machine, release)
    return told + _users(given, machine, release)


def _users(given: Mapping[str, Any], machine: Mapping[str, Any], release: Release) -> list[str]:
    """Another release asks for every mount to be renewed, which is looked at before its packages come."""
    installed = machine["packages"].get("beegfs-client-dkms")
    users = machine.get("in_use")
    if not users or not installed or release.is_version(installed) or given.get("remount") == "later":
        return []
    return [in_use_sentence(users)]


def _packages(given: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    told = []
    if servers := sorted(set(given.get("packages_extra") or ()) & set(SERVER_PACKAGES)):
        told.append(
            "beegfs_client_packages_extra: this role makes clients only, found the server package "
            f"{', '.join(servers)}; take it out"
        )
    if servers := sorted(set(machine["packages"]) & set(SERVER_PACKAGES)):
        told.append(
            f"expected a machine that is no BeeGFS server, found {', '.join(servers)} installed: this role makes "
            "clients only. Purge it, or leave this machine out (beegfs_client_enabled: false)"
        )
    for key in sorted(set(given.get("build_options") or ()) - set(BUILD_OPTIONS)):
        told.append(f"beegfs_client_build_options: expected keys of {', '.join(BUILD_OPTIONS)}, found {key}")
    return told


def _kernels(given: Mapping[str, Any], machine: Mapping[str, Any], release: Release) -> list[str]:
    kernels = list(machine["kernels"])
    if not kernels:
        return [
            "expected an installed kernel to build the module for, found none in /lib/modules: install one first "
            "(linux-image-amd64)"
        ]
    unsupported = release.unsupported(kernels)
    if not unsupported or not given.get("kernel_check", True):
        return []
    newest = ".".join(map(str, release.newest_kernel))
    return [
        f"BeeGFS {release} is known to build for kernels up to {newest}, found {', '.join(unsupported)} installed. "
        "Take a newer release (beegfs_client_version), or remove the kernel (apt-get purge "
        f"linux-image-{unsupported[0]}) and boot another; or set beegfs_client_kernel_check to false and let the build "
        "decide"
    ]
