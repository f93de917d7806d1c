# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases and the table of keys: what BeeGFS would ignore, refuse or misread is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.release import SERVER_PACKAGES, Release, ReleaseError
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.settings import (
    OBSOLETE,
    OWN,
    SETTINGS,
    problems,
    setting,
    texts,
)

SEVEN, EIGHT, EIGHT_3 = Release(7, 4), Release(8, 1), Release(8, 3, 1)

#: The file as shipped with 8.3.1, key for key with its default.
SHIPPED_8_3 = """
sysMgmtdHost= connAuthFile=/etc/beegfs/conn.auth connDisableAuthentication=false connClientPort=8004 connMgmtdPort=8008
connPortShift=0 connCommRetrySecs=600 connFallbackExpirationSecs=900 connInterfacesFile= connRDMAInterfacesFile=
connMaxInternodeNum=12 connMaxConcurrentAttempts=0 connNetFilterFile= connUseRDMA=true connTCPFallbackEnabled=true
connTCPRcvBufSize=0 connUDPRcvBufSize=0 connRDMABufNum=70 connRDMABufSize=8192 connRDMAFragmentSize=page
connRDMATypeOfService=0 connTcpOnlyFilterFile= connDisableIPv6=false logClientID=false logLevel=3 quotaEnabled=false
sysCacheInvalidationVersion=true sysCreateHardlinksAsSymlinks=false sysMountSanityCheckMS=11000
sysSessionCheckOnClose=false sysSyncOnClose=false sysTargetOfflineTimeoutSecs=900 sysUpdateTargetStatesSecs=30
sysXAttrsEnabled=false tuneFileCacheType=buffered tuneFileOpenRetryTimeoutMS=300000 tuneFileOpenRetryIntervalMS=10000
tunePreferredMetaFile= tunePreferredStorageFile= tuneRemoteFSync=true tuneUseGlobalAppendLocks=false
tuneUseGlobalFileLocks=false sysACLsEnabled=false sysSELinuxEnabled=false
"""
#: Known to the code of both series and not in the file, each with its default.
CODE_ONLY = """
connUnmountRetries=true connMessagingTimeouts=0,0,0 connRDMATimeouts=0,0,0,0,0 connRDMAMetaBufSize=default
connRDMAMetaBufNum=default connRDMAMetaFragmentSize=default connRDMAKeyType=global sysInodeIDStyle=hash64md4
sysSessionChecksEnabled=true sysXAttrsCheckCapabilities=never sysFileEventLogMask=none sysRenameEbusyAsXdev=false
remapConnectionFailureStatus=0 tuneFileCacheBufSize=524288 tuneFileCacheBufNum=0 tunePageCacheValidityMS=2000000000
tuneDirSubentryCacheValidityMS=1000 tuneFileSubentryCacheValidityMS=0 tuneENOENTCacheValidityMS=0 tunePathBufSize=4096
tunePathBufNum=8 tuneMsgBufSize=65536 tuneMsgBufNum=0 tuneRefreshOnGetAttr=false tuneInodeBlockBits=19
tuneEarlyCloseResponse=false tuneUseBufferedAppend=true tuneStatFsCacheSecs=10 tuneCoherentBuffers=true
"""
ONLY_8 = " sysACLsRevalidate=cache sysSELinuxRevalidate=cache sysBypassFileAccessCheckOnMeta=false"
ONLY_7 = " logType=helperd logHelperdIP=127.0.0.1 connHelperdPortTCP=8006 sysNoEnterpriseFeatureMsg=false"


def pairs(text: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in text.split())


def test_every_key_of_the_file_as_shipped_takes_its_default() -> None:
    for key, value in pairs(SHIPPED_8_3 + CODE_ONLY + ONLY_8).items():
        known = setting(key, EIGHT_3)
        assert known or key in OWN, key
        if known and value:
            assert known.text(value) == value, key
    for key, value in pairs(CODE_ONLY + ONLY_7).items():
        known = setting(key, SEVEN)
        assert known, key
        assert known.text(value) == value, key


def test_the_table_has_no_key_that_is_in_no_release() -> None:
    everything = pairs(SHIPPED_8_3 + CODE_ONLY + ONLY_8 + ONLY_7)
    assert set(SETTINGS) <= set(everything)
    assert set(everything) - set(SETTINGS) - {"sysFileEventLogMask"} <= set(OWN)
    assert not set(SETTINGS) & (set(OWN) | OBSOLETE)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("quotaEnabled", [True, False, "true", "False"], ["yes", 1, "", [True]]),
        ("logLevel", [0, "5"], [6, -1, "three", True, 1.5, None.__class__]),
        ("connMaxInternodeNum", [1, 65535], [0, 65536]),
        ("connTCPRcvBufSize", [-1, 0], [-2]),
        ("sysTargetOfflineTimeoutSecs", [30], [29, 0]),
        ("connRDMABufNum", [3], [2]),
        ("connRDMAFragmentSize", ["page", "none", 8192], [1, "default", True]),
        ("connRDMAMetaBufNum", ["default", 3], ["page", 2]),
        ("connMessagingTimeouts", ["1,2,3", [1, 2, 3]], ["1,2", "1,2,x", 5, True]),
        ("connRDMATimeouts", ["0,0,0,0,0"], ["0,0,0"]),
        ("tuneFileCacheType", ["native"], ["Native", "fast", 3]),
        ("sysFileEventLogMask", ["none", "flush,close", ["trunc"]], ["none,flush", "", "write"]),
        ("tunePreferredMetaFile", ["/etc/beegfs/meta"], ["meta", "/etc/a\nb", "/" + "x" * 2000]),
        ("sysInodeIDStyle", ["hash32md4"], ["md5"]),
    ],
)
def test_values_are_what_the_module_can_read(key: str, good: list[Any], bad: list[Any]) -> None:
    known = setting(key, EIGHT_3)
    assert known
    for value in good:
        assert known.text(value) is not None, value
    for value in bad:
        assert known.text(value) is None, value
        assert problems({key: value}, EIGHT_3, "here") == [f"here: {key} must be {known.expected()}, found {value!r}"]


def test_events_differ_between_series() -> None:
    assert problems({"sysFileEventLogMask": "open-read"}, EIGHT, "x") == []
    assert "must be 'none' or a list of flush" in problems({"sysFileEventLogMask": "open-read"}, SEVEN, "x")[0]


@pytest.mark.parametrize(
    ("key", "release", "told"),
    [
        ("connMaxInternodenum", EIGHT, r"has no key connMaxInternodenum .* (is connMaxInternodeNum meant?)"),
        ("tunefilecachetype", EIGHT, "(is tuneFileCacheType meant?)"),
        ("tuneNumWorker", EIGHT, "beegfs_client_settings_unchecked"),
        ("completelyElse", SEVEN, "conf. The client would ignore it or refuse the mount"),
        ("connDisableIPv6", EIGHT, "it came with 8.3, take it out"),
        ("sysACLsRevalidate", SEVEN, "it came with 8.0, take it out"),
        ("logType", EIGHT, "it went with beegfs-helperd, take it out"),
        ("tuneNumWorkers", EIGHT, "BeeGFS 8.1 ignores tuneNumWorkers, take it out"),
        ("sysMgmtdHost", SEVEN, "has a variable of its own, use mgmtd_host of the mount"),
        ("connAuthFile", EIGHT, "use beegfs_client_conn_auth or"),
    ],
)
def test_keys_that_do_nothing_are_refused(key: str, release: Release, told: str) -> None:
    found = problems({key: "1"}, release, "here")
    assert len(found) == 1
    assert all(part in found[0] for part in told.split(" .* ")), found


def test_what_is_written_is_what_was_given_over_the_shipped_file() -> None:
    assert texts({}, EIGHT) == {"connMaxInternodeNum": "12"}
    assert texts({"connMaxInternodeNum": None, "quotaEnabled": True, "connMessagingTimeouts": [1, 2, 3]}, SEVEN) == {
        "quotaEnabled": "true",
        "connMessagingTimeouts": "1,2,3",
    }
    assert problems({"quotaEnabled": None}, EIGHT, "x") == []


def test_releases_are_read_and_others_refused() -> None:
    assert (Release.parse("8.3"), Release.parse("7.4.7")) == (Release(8, 3), Release(7, 4, 7))
    assert (str(Release(8, 3)), str(EIGHT_3)) == ("8.3", "8.3.1")
    for text in ("8", "latest", "7.2", "9.0", "8.3.x", "8.3.1.2", ""):
        with pytest.raises(ReleaseError, match="expected a series"):
            Release.parse(text)


def test_what_a_client_is_made_of() -> None:
    assert SEVEN.packages == ("beegfs-client-dkms", "beegfs-helperd", "beegfs-utils")
    assert EIGHT.packages == ("beegfs-client-dkms", "beegfs-tools")
    for release in (SEVEN, EIGHT):
        assert not set(release.packages) & set(SERVER_PACKAGES)
    assert SEVEN.foreign_packages([]) == ["beegfs-tools"]
    assert EIGHT.foreign_packages(["beegfs-utils"]) == ["beegfs-helperd", "beegfs-common"]
    assert "beegfs-common" in SEVEN.versioned_packages
    assert (SEVEN.directory, Release(7, 4, 6).directory, EIGHT_3.directory) == (
        "beegfs_7.4.7",
        "beegfs_7.4.6",
        "beegfs_8.3",
    )


def test_versions_of_packages() -> None:
    for text in ("20:8.3.1", "8.3.1", "20:8.3.1-1", "20:8.3.1+deb13"):
        assert EIGHT_3.is_version(text), text
        assert Release(8, 3).is_version(text), text
    for text in ("20:8.3.10", "20:8.3.1.1", "20:8.3.2", "20:18.3.1", ""):
        assert not EIGHT_3.is_version(text), text
    assert not Release(8, 3).is_version("20:8.31.0")
    installed = {"beegfs-client-dkms": "20:8.3.1", "beegfs-tools": "20:8.3.0"}
    assert Release(8, 3).satisfied(installed, [])
    assert not EIGHT_3.satisfied(installed, [])
    assert not Release(8, 3).satisfied(installed, ["beegfs-utils"])
    assert not Release(8, 3).satisfied({}, [])


@pytest.mark.parametrize(
    ("release", "newest"),
    [("7.4.6", (6, 11)), ("7.4.7", (6, 12)), ("7.4", (6, 12)), ("8.0", (6, 11)), ("8.1.0", (6, 12)), ("8.2.2", (6, 12)),
     ("8.3", (6, 14)), ("8.4.1", (6, 14))],
)  # fmt: skip
def test_kernels_for_which_a_release_is_known_to_build(release: str, newest: tuple[int, int]) -> None:
    found = Release.parse(release)
    assert found.newest_kernel == newest
    assert found.unsupported(["6.12.117+deb13-amd64", "7.3.4+deb13-amd64", "odd"]) == (
        (["6.12.117+deb13-amd64"] if newest < (6, 12) else []) + ["7.3.4+deb13-amd64"]
    )
