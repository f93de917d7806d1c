# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site says about its BeeGFS mounts: read, checked, and every mistake told at once."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import PurePosixPath
from typing import Any

from . import settings as conf
from .release import Release

FOLDER = PurePosixPath("/etc/beegfs")
#: The secret that all mounts have which have none of their own.
AUTH = FOLDER / "conn.auth"
#: The module reads so much of a secret and no more, and refuses less.
SECRET_MIN, SECRET_MAX = 4, 1024

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_PATH = re.compile(r"(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
#: From 8 on a line may be a filter: [!] name|* [address|*] [4|6|*]
_FILTER = re.compile(r"!? ?([A-Za-z0-9_.:-]{1,15}|\*)( ([0-9A-Fa-f.:/]+|\*)( [46*])?)?")
_OPTION = re.compile(r"[A-Za-z0-9_]+(=[A-Za-z0-9_./:+-]+)?")
#: Mount options that say what has a field of its own, and what is always given.
_OWN_OPTIONS = frozenset(
    {
        "cfgFile",
        "sysMgmtdHost",
        "connMgmtdPort",
        "connMgmtdPortUDP",
        "connMgmtdPortTCP",
        "connInterfacesList",
        "_netdev",
    }
)
_KEYS = frozenset(
    {
        "path",
        "mgmtd_host",
        "mgmtd_port",
        "client_port",
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
    }
)


@dataclass(frozen=True)
class Mount:
    """One mount. Everything in it is fit to be written."""

    path: str
    mgmtd_host: str
    first: bool = True
    mgmtd_port: int = 8008
    client_port: int = 8004
    secret: bytes | None = field(default=None, repr=False)
    own_secret: bool = False
    rdma: bool = True
    rdma_interfaces: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    net_filter: tuple[str, ...] = ()
    tcp_only_filter: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def read_only(self) -> bool:
        return "ro" in self.options

    @property
    def stem(self) -> str:
        """Its files begin with this. BeeGFS's commands look at the first mount's when they are told nothing."""
        return "beegfs-client" if self.first else f"beegfs-client-{escape(self.path)}"

    @property
    def conf(self) -> PurePosixPath:
        return FOLDER / f"{self.stem}.conf"

    @property
    def auth(self) -> PurePosixPath | None:
        """Where its secret is; ``None`` where the site wants no authentication."""
        if self.secret is None:
            return None
        return FOLDER / f"{self.stem}.auth" if self.own_secret else AUTH

    @property
    def unit(self) -> str:
        return f"{escape(self.path)}.mount"


def escape(path: str) -> str:
    """The name that systemd gives a path (``systemd-escape --path``)."""
    return "".join(
        "-" if letter == "/" else letter if re.fullmatch(r"[A-Za-z0-9_.:]", letter) else f"\\x{ord(letter):02x}"
        for letter in path.strip("/")
    )


def read(
    mounts: Sequence[Mapping[str, Any]], common: Mapping[str, Any], release: Release, *, secrets: bool = True
) -> tuple[list[Mount], list[str]]:
    """The mounts, and everything that is wrong about them; use the mounts only when nothing is.

    :param common: what holds for every mount that does not say otherwise, under the same names.
    :param secrets: whether a secret must be there; in an image there is none.
    """
    if not secrets:
        common = {**common, "authentication": False}
        mounts = [{k: v for k, v in mount.items() if k not in ("conn_auth", "authentication")} for mount in mounts]
    told: list[str] = []
    made: list[Mount] = []
    for place, given in enumerate(mounts):
        where = f"beegfs_client_mounts[{place}]"
        before = len(told)
        mount = _read(given, common, release, where, told, first=place == 0)
        if mount and len(told) == before:
            made.append(mount)
    told += _between(made, release)
    return made, list(dict.fromkeys(told))


def secret(text: str) -> bytes | None:
    """The secret that *text* is the base64 form of; ``None`` when it is no base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _read(
    given: Mapping[str, Any], common: Mapping[str, Any], release: Release, where: str, told: list[str], *, first: bool
) -> Mount | None:
    if unknown := sorted(set(given) - _KEYS):
        told.append(f"{where}: expected keys of {', '.join(sorted(_KEYS))}; found {', '.join(unknown)}")
    both = {**common, **{key: value for key, value in given.items() if value is not None}}
    path, host = str(both.get("path") or ""), str(both.get("mgmtd_host") or "")
    if not _PATH.fullmatch(path) or len(path) > 200:
        told.append(f"{where}: path must be an absolute path of letters, digits, '_', '.', '+', '-'; found {path!r}")
    if not _HOST.fullmatch(host) or len(host) > 253:
        told.append(f"{where}: mgmtd_host must name the host of the management daemon; found {host!r}")
    ports = {}
    for name, default in (("mgmtd_port", 8008), ("client_port", 8004)):
        text = conf.Setting("int", 1, 65535).text(both.get(name, default))
        if text is None:
            told.append(f"{where}: {name} must be a port, found {both[name]!r}")
        ports[name] = int(text or default)
    own = {**common.get("settings", {}), **(given.get("settings") or {})}
    told += conf.problems(common.get("settings") or {}, release, "beegfs_client_settings")
    told += conf.problems(given.get("settings") or {}, release, f"{where}.settings")
    unchecked = _unchecked(
        {**(common.get("settings_unchecked") or {}), **(given.get("settings_unchecked") or {})}, where, told
    )
    lists = {
        name: _lines(both, name, release, where, told)
        for name in ("interfaces", "rdma_interfaces", "net_filter", "tcp_only_filter")
    }
    options = _options(both.get("options") or (), where, told)
    key = _secret(given, both, where, told)
    if told:
        return None
    return Mount(
        path=path,
        mgmtd_host=host,
        first=first,
        secret=key,
        own_secret=bool(given.get("conn_auth")),
        rdma=bool(both.get("rdma", True)),
        options=options,
        settings={**conf.texts(own, release), **unchecked},
        mgmtd_port=ports["mgmtd_port"],
        client_port=ports["client_port"],
        interfaces=lists["interfaces"],
        rdma_interfaces=lists["rdma_interfaces"],
        net_filter=lists["net_filter"],
        tcp_only_filter=lists["tcp_only_filter"],
    )


def _unchecked(given: Mapping[str, Any], where: str, told: list[str]) -> dict[str, str]:
    """Keys that the table does not have, as they are given; only what would break the file is refused."""
    found = {}
    for key, value in given.items():
        text = conf.Setting("bool").text(value) if isinstance(value, bool) else str(value)
        good = re.fullmatch(r"[A-Za-z0-9_]+", key) and text is not None and text.isprintable()
        if not good or len(f"{key} = {text}") > conf.MAX_LINE:
            told.append(f"{where}: settings_unchecked takes a key and one line of text, found {key!r}: {value!r}")
        elif key in conf.OWN:
            told.append(f"{where}: {key} has a variable of its own, use {conf.OWN[key]}")
        else:
            found[key] = str(text)
    return found


def _lines(both: Mapping[str, Any], name: str, release: Release, where: str, told: list[str]) -> tuple[str, ...]:
    lines = tuple(str(line) for line in both.get(name) or ())
    for line in lines:
        if name in ("net_filter", "tcp_only_filter"):
            good = _network(line, release)
            expected = "an IPv4 network" if release.has_helperd else "a network"
            expected += " with its prefix and no host part, such as 10.1.0.0/16"
        else:
            filters = name == "interfaces" and not release.has_helperd
            good = bool((_FILTER if filters else _INTERFACE).fullmatch(line))
            expected = "an interface's name" + (", or a filter '[!] NAME [ADDRESS [4|6]]'" if filters else "")
        if not good:
            told.append(f"{where}: each of {name} must be {expected}; found {line!r}")
    return lines


def _network(text: str, release: Release) -> bool:
    try:
        network = ip_network(text)
    except ValueError:
        return False
    return "/" in text and (network.version == 4 or not release.has_helperd)


def _options(given: Sequence[Any], where: str, told: list[str]) -> tuple[str, ...]:
    options = tuple(str(option) for option in given)
    for option in options:
        if not _OPTION.fullmatch(option):
            told.append(f"{where}: each of options must be one mount option, found {option!r}")
        elif option.split("=")[0] in _OWN_OPTIONS:
            told.append(f"{where}: the role itself gives the mount option {option.split('=')[0]}, take it out")
    return options


def _secret(given: Mapping[str, Any], both: Mapping[str, Any], where: str, told: list[str]) -> bytes | None:
    """The secret; it is never quoted."""
    if not both.get("authentication", True):
        if given.get("conn_auth"):
            told.append(
                f"{where}: a secret (conn_auth) is given although authentication is false; take one of them out"
            )
        return None
    text = str(both.get("conn_auth") or "")
    if not text:
        told.append(
            f"{where}: the secret of BeeGFS's connection authentication is needed, from beegfs_client_conn_auth "
            "(base64 text, from a vault) or beegfs_client_conn_auth_file (a file on the control machine): the same as "
            "on the servers, else the mount is refused. A site without: beegfs_client_authentication: false"
        )
        return None
    found = secret(text)
    if found is None:
        told.append(
            f"{where}: the secret (conn_auth) is not base64 text; make it with: base64 -w0 /etc/beegfs/conn.auth"
        )
    elif not SECRET_MIN <= len(found) <= SECRET_MAX:
        told.append(f"{where}: expected a secret of {SECRET_MIN} to {SECRET_MAX} bytes, found one of {len(found)}")
    return found


def _between(mounts: Sequence[Mount], release: Release) -> list[str]:
    """What is wrong between mounts that are each fine."""
    told = []
    for place, mount in enumerate(mounts):
        for other in mounts[:place]:
            if other.path == mount.path:
                told.append(f"beegfs_client_mounts: two have the path {mount.path}")
            elif other.client_port == mount.client_port:
                told.append(
                    f"beegfs_client_mounts: {other.path} and {mount.path} both have client_port {mount.client_port}, "
                    "and each mount listens on a UDP port of its own; give one of them another, such as 8014"
                )
    if release.has_helperd and len({mount.secret for mount in mounts}) > 1:
        told.append(
            f"beegfs_client_mounts: in BeeGFS {release} every mount speaks to one beegfs-helperd, so all need the same "
            "secret; found different ones"
        )
    return told
