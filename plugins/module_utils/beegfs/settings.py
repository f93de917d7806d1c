# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every key of beegfs-client.conf, with what its value may be.

The client module of 8.x passes over a key that it does not know, so that a misspelt one has no effect and nobody is
told; that of 7.4 refuses the mount with one line in the kernel's log. Both read what is no number as a number and what
is no truth value as false. So all of it is checked here, before anything is written.

What the table rests on: for 7.4 the parser in the module's source (``Config.c`` of the 7.4 series); for 8 the file as
shipped with 8.3.1 and the defaults in that release's source. A key that a later release adds is not in it; such a one
can be given as *unchecked*.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .release import Release

#: The module reads a line into a buffer of this size, and drops the rest.
MAX_LINE = 1023
_MAX_INT = 2**31 - 1
#: Where the file as shipped differs from the default in the module's code.
SHIPPED: dict[str, Any] = {"connMaxInternodeNum": 12}


@dataclass(frozen=True)
class Setting:
    """A key: *kind* of its value and the first and last series that know it."""

    kind: str
    low: int = 0
    high: int = _MAX_INT
    words: tuple[str, ...] = ()
    since: tuple[int, int] = (7, 4)
    last: tuple[int, int] = (99, 0)

    def known(self, release: Release) -> bool:
        return self.since <= (release.major, release.minor) <= self.last

    def expected(self) -> str:
        """What a value must be, for a message."""
        number = (
            f"a whole number of at least {self.low}"
            if self.high == _MAX_INT
            else f"a number from {self.low} to {self.high}"
        )
        return {
            "bool": "true or false",
            "int": number,
            "word": f"one of {', '.join(self.words)}",
            "mask": f"'none' or a list of {', '.join(self.words)}",
            "numbers": f"{self.low} whole numbers with commas between them",
            "sized": f"{', '.join(self.words)} or {number}",
            "path": "the absolute path of a file on the node",
            "address": "an address",
        }[self.kind]

    def text(self, value: Any) -> str | None:
        """*value* as the file has it; ``None`` when it is no good."""
        if self.kind == "bool":
            return _truth(value)
        if self.kind == "int":
            return _number(value, self.low, self.high)
        if self.kind == "sized":
            return value if value in self.words else _number(value, max(self.low, 1), self.high)
        if isinstance(value, bool) or not isinstance(value, (str, list, tuple)):
            return None
        return self._words_or_path(value)

    def _words_or_path(self, value: str | list[Any] | tuple[Any, ...]) -> str | None:
        if self.kind in ("mask", "numbers"):
            parts = [str(part).strip() for part in (value.split(",") if isinstance(value, str) else value)]
            if self.kind == "mask":
                good = parts == ["none"] or (bool(parts) and set(parts) <= set(self.words))
            else:
                good = len(parts) == self.low and all(part.isdigit() for part in parts)
            return ",".join(parts) if good else None
        if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_LINE // 2:
            return None
        if self.kind == "word":
            return value if value in self.words else None
        return value if self.kind == "address" or value.startswith("/") else None


def _truth(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.lower() if isinstance(value, str) and value.lower() in ("true", "false") else None


def _number(value: Any, low: int, high: int) -> str | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None
    return str(number) if number is not None and low <= number <= high else None


def _bools(names: str, **limits: Any) -> dict[str, Setting]:
    return {name: Setting("bool", **limits) for name in names.split()}


def _ints(names: str, low: int = 0, high: int = _MAX_INT, **limits: Any) -> dict[str, Setting]:
    return {name: Setting("int", low, high, **limits) for name in names.split()}


_SEVEN: dict[str, Any] = {"last": (7, 99)}
_EIGHT: dict[str, Any] = {"since": (8, 0)}
_EIGHT_3: dict[str, Any] = {"since": (8, 3)}
_EVENTS = ("flush", "trunc", "setattr", "close", "link-op", "read")

SETTINGS: dict[str, Setting] = {
    **_bools(
        "connTCPFallbackEnabled connUnmountRetries logClientID quotaEnabled sysACLsEnabled "
        "sysCreateHardlinksAsSymlinks sysRenameEbusyAsXdev sysSessionCheckOnClose "
        "sysSessionChecksEnabled sysSyncOnClose sysXAttrsEnabled "
        "tuneCoherentBuffers tuneEarlyCloseResponse tuneRefreshOnGetAttr tuneRemoteFSync tuneUseBufferedAppend "
        "tuneUseGlobalAppendLocks tuneUseGlobalFileLocks"
    ),
    **_bools("sysNoEnterpriseFeatureMsg", **_SEVEN),
    **_bools("sysBypassFileAccessCheckOnMeta sysCacheInvalidationVersion", **_EIGHT),
    **_bools("connDisableIPv6 sysSELinuxEnabled", **_EIGHT_3),
    **_ints(
        "connCommRetrySecs connFallbackExpirationSecs connMaxConcurrentAttempts remapConnectionFailureStatus "
        "sysMountSanityCheckMS tuneDirSubentryCacheValidityMS tuneENOENTCacheValidityMS tuneFileCacheBufNum "
        "tuneFileCacheBufSize tuneFileSubentryCacheValidityMS tuneMsgBufNum tunePageCacheValidityMS tuneStatFsCacheSecs"
    ),
    **_ints("sysUpdateTargetStatesSecs tuneMsgBufSize tunePathBufNum tunePathBufSize", 1),
    **_ints("connTCPRcvBufSize connUDPRcvBufSize", -1),
    # the module refuses less than 30
    **_ints("sysTargetOfflineTimeoutSecs", 30),
    **_ints("connMaxInternodeNum", 1, 65535),
    **_ints("connPortShift", 0, 65535),
    # fewer than three buffers: no communication at all
    **_ints("connRDMABufNum", 3),
    **_ints("connRDMABufSize", 4096),
    **_ints("connRDMATypeOfService", 0, 255),
    **_ints("logLevel", 0, 5),
    # a block of an inode is 2 to the power of it
    **_ints("tuneInodeBlockBits", 12, 30),
    **_ints("connHelperdPortTCP", 1, 65535, **_SEVEN),
    **_ints("tuneFileOpenRetryIntervalMS tuneFileOpenRetryTimeoutMS", **_EIGHT_3),
    "connMessagingTimeouts": Setting("numbers", 3),
    "connRDMATimeouts": Setting("numbers", 5),
    "connRDMAFragmentSize": Setting("sized", 4096, words=("page", "none")),
    "connRDMAKeyType": Setting("word", words=("global", "dma", "register")),
    "connRDMAMetaBufNum": Setting("sized", 3, words=("default",)),
    "connRDMAMetaBufSize": Setting("sized", 4096, words=("default",)),
    "connRDMAMetaFragmentSize": Setting("sized", 4096, words=("default", "page", "none")),
    "logHelperdIP": Setting("address", **_SEVEN),
    "logType": Setting("word", words=("helperd", "syslog"), **_SEVEN),
    "sysACLsRevalidate": Setting("word", words=("always", "cache"), **_EIGHT),
    "sysInodeIDStyle": Setting("word", words=("hash64hsieh", "hash32hsieh", "hash64md4", "hash32md4")),
    "sysSELinuxRevalidate": Setting("word", words=("always", "cache"), **_EIGHT_3),
    "sysXAttrsCheckCapabilities": Setting("word", words=("always", "cache", "never")),
    "tuneFileCacheType": Setting("word", words=("none", "buffered", "native", "paged")),
    "tunePreferredMetaFile": Setting("path"),
    "tunePreferredStorageFile": Setting("path"),
}
#: Differs between series, so it has an entry of its own.
_FILE_EVENTS = {
    True: Setting("mask", words=_EVENTS),
    False: Setting("mask", words=(*_EVENTS, "open-read", "open-write", "open-readwrite")),
}

#: Keys that the role writes itself, and what to use instead.
OWN = {
    "cfgFile": "nothing, the mount names its file",
    "connAuthFile": "beegfs_client_conn_auth or beegfs_client_conn_auth_file",
    "connClientPort": "client_port of the mount",
    "connClientPortUDP": "client_port of the mount",
    "connDisableAuthentication": "beegfs_client_authentication",
    "connInterfacesFile": "beegfs_client_interfaces",
    "connInterfacesList": "beegfs_client_interfaces",
    "connMgmtdPort": "mgmtd_port of the mount",
    "connMgmtdPortTCP": "mgmtd_port of the mount",
    "connMgmtdPortUDP": "mgmtd_port of the mount",
    "connNetFilterFile": "beegfs_client_net_filter",
    "connRDMAInterfacesFile": "beegfs_client_rdma_interfaces",
    "connTcpOnlyFilterFile": "beegfs_client_tcp_only_filter",
    "connUseRDMA": "beegfs_client_rdma",
    "sysMgmtdHost": "mgmtd_host of the mount",
}
#: Keys of older releases, which the module still reads and acts on no more.
OBSOLETE = frozenset(
    {
        "connNonPrimaryExpiration",
        "connNumCommRetries",
        "debugFindOtherNodes",
        "logNoDate",
        "logNumLines",
        "logNumRotatedFiles",
        "logStdFile",
        "tuneAllowMultiSetRead",
        "tuneAllowMultiSetWrite",
        "tuneAttribCacheValidityMS",
        "tuneInodeBlockSize",
        "tuneMaxClientMirrorSize",
        "tuneMaxReadWorks",
        "tuneMaxReadWriteNodesNum",
        "tuneMaxReadWriteNum",
        "tuneMaxWriteWorks",
        "tuneNumRetryWorkers",
        "tuneNumWorkers",
        "tunePagedIOBufNum",
        "tunePagedIOBufSize",
    }
)


def setting(key: str, release: Release) -> Setting | None:
    """The key's description, when *release* knows it."""
    if key == "sysFileEventLogMask":
        return _FILE_EVENTS[release.has_helperd]
    found = SETTINGS.get(key)
    return found if found and found.known(release) else None


def problems(settings: Mapping[str, Any], release: Release, where: str) -> list[str]:
    """Everything about *settings* that the module of *release* would ignore, refuse or misread."""
    return [told for key, value in settings.items() if (told := _problem(key, value, release, where))]


def texts(settings: Mapping[str, Any], release: Release) -> dict[str, str]:
    """Keys with their values as the file has them, without those set to null. They must have no problems."""
    merged = {**SHIPPED, **settings}
    found = {key: setting(key, release) for key in merged}
    return {key: str(known.text(merged[key])) for key, known in found.items() if known and merged[key] is not None}


def _problem(key: str, value: Any, release: Release, where: str) -> str | None:
    if key in OWN:
        return f"{where}: {key} has a variable of its own, use {OWN[key]}"
    if key in OBSOLETE:
        return f"{where}: BeeGFS {release} ignores {key}, take it out"
    known = setting(key, release)
    if known is None:
        return f"{where}: BeeGFS {release} has no key {key} in beegfs-client.conf{_hint(key, release)}"
    if value is not None and known.text(value) is None:
        return f"{where}: {key} must be {known.expected()}, found {value!r}"
    return None


def _hint(key: str, release: Release) -> str:
    if elsewhere := SETTINGS.get(key):
        if elsewhere.since > (release.major, release.minor):
            return f": it came with {elsewhere.since[0]}.{elsewhere.since[1]}, take it out"
        return ": it went with beegfs-helperd, take it out"
    names = [*(name for name in SETTINGS if SETTINGS[name].known(release)), "sysFileEventLogMask", *OWN]
    spelt = {name.lower(): name for name in names}
    near = difflib.get_close_matches(key.lower(), spelt, n=1, cutoff=0.75)
    meant = f" (is {spelt[near[0]]} meant?)" if near else ""
    return (
        f"{meant}. The client would ignore it or refuse the mount; a key that is newer than this table belongs in "
        "beegfs_client_settings_unchecked"
    )
