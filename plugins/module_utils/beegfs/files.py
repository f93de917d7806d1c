# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a BeeGFS client, as text: configuration, lists, secret, and the units that mount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .mounts import FOLDER, Mount
from .release import Release

#: The first line of every file that a person may read; what bears it and is not wanted any more is removed.
MARK = "# Written by the role hpc.compute.beegfs_client."
UNITS = PurePosixPath("/etc/systemd/system")
HELPERD = "beegfs-helperd.service"
HELPERD_CONF = FOLDER / "beegfs-helperd.conf"
SLURMD = UNITS / "slurmd.service.d/hpc-compute-beegfs.conf"
#: Options for the build of the module, which BeeGFS's dkms.conf reads.
BUILD = FOLDER / "beegfs-client-build.mk"
BUILD_OPTIONS = (
    "OFED_INCLUDE_PATH",
    "BEEGFS_NO_RDMA",
    "NVFS_INCLUDE_PATH",
    "NVIDIA_INCLUDE_PATH",
    "BEEGFS_DISABLE_IDMAPPING",
)
#: systemd gives up on a mount after so many seconds: BeeGFS's own check of its servers (11 s) fits in, with patience.
_MOUNT_TIMEOUT = 90


@dataclass(frozen=True)
class File:
    """A file as it shall be; *content* is shown to nobody where it is *secret*. *mount*: whose settings it has."""

    path: PurePosixPath
    content: bytes = field(repr=False)
    mode: int = 0o644
    secret: bool = False
    mount: str | None = None


def files(mounts: Sequence[Mount], release: Release, slurmd: str) -> list[File]:
    """All files of a client with these mounts.

    :param slurmd: ``ignore`` the mounts, ``wait`` for them to be tried, or ``require`` them.
    """
    found: list[File] = []
    for mount in mounts:
        found += _of_mount(mount, release)
    if release.has_helperd and mounts:
        found.append(_text(HELPERD_CONF, _helperd(mounts[0])))
    if slurmd != "ignore" and mounts:
        found.append(_text(SLURMD, _slurmd(mounts, slurmd)))
    # one secret may serve several mounts
    return list({file.path: file for file in found}.values())


def build_options(options: Mapping[str, str]) -> File:
    """The file with options for the build of the module."""
    return _text(BUILD, [f"{key}={value}" for key, value in sorted(options.items())])


def _of_mount(mount: Mount, release: Release) -> list[File]:
    lists = {
        "connInterfacesFile": ("interfaces", mount.interfaces),
        "connRDMAInterfacesFile": ("rdma-interfaces", mount.rdma_interfaces),
        "connNetFilterFile": ("net-filter", mount.net_filter),
        "connTcpOnlyFilterFile": ("tcp-only-filter", mount.tcp_only_filter),
    }
    named = {key: (FOLDER / f"{mount.stem}.{suffix}", lines) for key, (suffix, lines) in lists.items() if lines}
    values = {
        "sysMgmtdHost": mount.mgmtd_host,
        **_ports(mount, release),
        **_authentication(mount),
        "connUseRDMA": "true" if mount.rdma else "false",
        **{key: str(path) for key, (path, _) in named.items()},
        **mount.settings,
    }
    found = [_text(mount.conf, [f"{key} = {value}" for key, value in sorted(values.items())], mount.path)]
    found += [_text(path, lines, mount.path) for path, lines in named.values()]
    if mount.auth and mount.secret is not None:
        found.append(File(mount.auth, mount.secret, 0o400, secret=True, mount=mount.path))
    return [*found, _text(UNITS / mount.unit, _unit(mount, release), mount.path)]


def _ports(mount: Mount, release: Release) -> dict[str, str]:
    # 8 joined the two ports of the management daemon; the old keys beside the new one refuse the mount there
    if release.has_helperd:
        return {
            "connClientPortUDP": str(mount.client_port),
            "connMgmtdPortTCP": str(mount.mgmtd_port),
            "connMgmtdPortUDP": str(mount.mgmtd_port),
        }
    return {"connClientPort": str(mount.client_port), "connMgmtdPort": str(mount.mgmtd_port)}


def _authentication(mount: Mount) -> dict[str, str]:
    # without a file the module needs to be told so, and 7.4 would read a file that is there all the same
    if mount.auth is None:
        return {"connAuthFile": "", "connDisableAuthentication": "true"}
    return {"connAuthFile": str(mount.auth), "connDisableAuthentication": "false"}


def _helperd(mount: Mount) -> list[str]:
    values = {
        **_authentication(mount),
        "connHelperdPortTCP": mount.settings.get("connHelperdPortTCP", "8006"),
        "connPortShift": mount.settings.get("connPortShift", "0"),
        "logNoDate": "false",
        "logNumLines": "50000",
        "logNumRotatedFiles": "5",
        "logStdFile": "/var/log/beegfs-client.log",
        "runDaemonized": "true",
        "tuneNumWorkers": "2",
    }
    return [f"{key} = {value}" for key, value in values.items()]


def _unit(mount: Mount, release: Release) -> list[str]:
    helperd = [f"Wants={HELPERD}", f"After={HELPERD}"] if release.has_helperd else []
    options = ",".join([f"cfgFile={mount.conf}", "_netdev", "nosuid", "nodev", *mount.options])
    return [
        "[Unit]",
        f"Description=BeeGFS of {mount.mgmtd_host} at {mount.path}",
        "Wants=network-online.target",
        "After=network-online.target",
        *helperd,
        # a node without Slurm has no such unit, which does no harm
        "Before=slurmd.service",
        "",
        "[Mount]",
        "What=beegfs_nodev",
        f"Where={mount.path}",
        "Type=beegfs",
        f"Options={options}",
        f"TimeoutSec={_MOUNT_TIMEOUT}",
        "",
        "[Install]",
        "WantedBy=remote-fs.target",
    ]


def _slurmd(mounts: Sequence[Mount], slurmd: str) -> list[str]:
    units = " ".join(mount.unit for mount in mounts)
    return [
        "[Unit]",
        # Requires: slurmd does not start where a mount fails, and stops when one is unmounted. Wants: it starts after
        # the mounts were tried, whatever became of them.
        f"{'Requires' if slurmd == 'require' else 'Wants'}={units}",
        f"After={units}",
    ]


def _text(path: PurePosixPath, lines: Sequence[str], mount: str | None = None) -> File:
    return File(path, "\n".join([MARK, *lines, ""]).encode(), mount=mount)
