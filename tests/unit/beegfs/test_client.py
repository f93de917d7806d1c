# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site says about its mounts, all mistakes at once; and the files that come of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.check import problems
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.files import MARK, File, build_options, files
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.mounts import Mount, escape, read, secret
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.release import Release

SECRET = b"\x00\xffa secret\n"
TEXT = base64.b64encode(SECRET).decode()
COMMON: dict[str, Any] = {"authentication": True, "conn_auth": TEXT, "settings": {}}
ONE: dict[str, Any] = {"path": "/mnt/beegfs", "mgmtd_host": "mgmt"}
EIGHT, SEVEN = Release(8, 3), Release(7, 4)
KERNEL = "6.12.117+deb13-amd64"
OLDER, USED = {"beegfs-client-dkms": "20:7.4.7"}, {"/b": ["7 python"]}
MACHINE: dict[str, Any] = {"packages": {}, "kernels": [KERNEL]}


def mounts(*given: dict[str, Any], release: Release = EIGHT, **common: Any) -> list[Mount]:
    made, told = read([{**ONE, **one} for one in given], {**COMMON, **common}, release)
    assert told == []
    return made


def told(*given: dict[str, Any], release: Release = EIGHT, **common: Any) -> str:
    return "\n".join(read([{**ONE, **one} for one in given], {**COMMON, **common}, release)[1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "mnt"}, "path must be an absolute path of letters"),
        ({"path": "/"}, "path must be"),
        ({"path": "/mnt/../etc"}, "path must be"),
        ({"path": "/mnt/a b"}, "found '/mnt/a b'"),
        ({"path": "/mnt/"}, "path must be"),
        ({"mgmtd_host": ""}, "mgmtd_host must name the host"),
        ({"mgmtd_host": "a b"}, "mgmtd_host must name"),
        ({"mgmtd_port": 0}, "mgmtd_port must be a port, found 0"),
        ({"client_port": 70000}, "client_port must be a port"),
        ({"pathh": 1}, "found pathh"),
        ({"settings": {"nope": 1}}, "beegfs_client_mounts[0].settings: BeeGFS 8.3 has no key nope"),
        ({"settings_unchecked": {"a b": 1}}, "settings_unchecked takes a key and one line"),
        ({"settings_unchecked": {"a": "x\ny"}}, "settings_unchecked takes"),
        ({"settings_unchecked": {"a": "x" * 1100}}, "settings_unchecked takes"),
        ({"settings_unchecked": {"sysMgmtdHost": "x"}}, "sysMgmtdHost has a variable of its own"),
        ({"interfaces": ["ib0;rm"]}, "each of interfaces must be an interface's name, or a filter"),
        ({"rdma_interfaces": ["* 10.0.0.1"]}, "each of rdma_interfaces must be an interface's name; found"),
        ({"net_filter": ["10.0.0.1/8"]}, "each of net_filter must be a network with its prefix and no host part"),
        ({"net_filter": ["10.0.0.1"]}, "each of net_filter"),
        ({"tcp_only_filter": ["x"]}, "each of tcp_only_filter"),
        ({"options": ["a,b"]}, "each of options must be one mount option"),
        ({"options": ["cfgFile=/x"]}, "the role itself gives the mount option cfgFile"),
        ({"conn_auth": "%%%"}, "the secret (conn_auth) is not base64 text"),
        ({"conn_auth": "YWJj"}, "a secret of 4 to 1024 bytes, found one of 3"),
        ({"conn_auth": TEXT, "authentication": False}, "although authentication is false"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(given: dict[str, Any], words: str) -> None:
    assert words in told(given)


def test_all_mistakes_are_told_at_once_and_no_secret_with_them() -> None:
    found = told({"path": "x", "mgmtd_host": ""}, {"client_port": -1, "conn_auth": "geheim"}, settings={"nope": 1})
    assert len(found.splitlines()) == 5, found
    assert "geheim" not in found
    assert found.count("beegfs_client_settings:") == 1, "a common setting is told once"


def test_a_secret_is_needed_unless_the_site_says_otherwise() -> None:
    assert "beegfs_client_authentication: false" in told({}, conn_auth="")
    assert mounts({}, authentication=False)[0].auth is None
    assert mounts({"authentication": False})[0].secret is None
    made, problems_found = read([{**ONE, "conn_auth": "?"}], {**COMMON, "conn_auth": ""}, EIGHT, secrets=False)
    assert (problems_found, made[0].secret) == ([], None), "an image needs none"


def test_mounts_must_not_get_in_each_others_way() -> None:
    assert "two have the path /mnt/beegfs" in told({}, {"client_port": 8014})
    assert "both have client_port 8004" in told({}, {"path": "/b"})
    other = base64.b64encode(b"other secret").decode()
    two: tuple[dict[str, Any], ...] = ({}, {"path": "/b", "client_port": 8014, "conn_auth": other})
    assert "speaks to one beegfs-helperd, so all need the same secret" in told(*two, release=SEVEN)
    assert [mount.auth and mount.auth.name for mount in mounts(*two)] == ["conn.auth", "beegfs-client-b.auth"]


def test_series_differ_in_what_they_take() -> None:
    assert told({"interfaces": ["!ib0 * 4"], "net_filter": ["fd00::/8"]}) == ""
    assert "each of interfaces must be an interface's name; found" in told({"interfaces": ["! ib0"]}, release=SEVEN)
    assert "must be an IPv4 network" in told({"net_filter": ["fd00::/8"]}, release=SEVEN)


def test_what_is_given_for_one_mount_counts_over_what_is_given_for_all() -> None:
    (mount,) = mounts(
        {"interfaces": ["ib0"], "settings": {"logLevel": 5}, "rdma": False, "options": None},
        interfaces=["eth0"],
        settings={"logLevel": 1, "quotaEnabled": True},
        settings_unchecked={"someNewKey": True, "other": 3},
        options=["ro"],
        rdma=True,
    )
    assert (mount.interfaces, mount.rdma, mount.read_only) == (("ib0",), False, True)
    assert mount.settings == {
        "logLevel": "5", "quotaEnabled": "true", "connMaxInternodeNum": "12", "someNewKey": "true", "other": "3",
    }  # fmt: skip


def test_secrets_are_read_and_not_shown() -> None:
    assert secret(f" {TEXT[:4]}\n{TEXT[4:]} ") == SECRET
    assert secret("ü") is None
    assert "secret" not in repr(mounts({})[0]).replace("own_secret", "")


@pytest.mark.parametrize(
    ("path", "name"), [("/mnt/beegfs", "mnt-beegfs"), ("/a-b/c_d.e", "a\\x2db-c_d.e"), ("/a+b", "a\\x2bb")]
)
def test_units_are_named_as_systemd_names_them(path: str, name: str) -> None:
    assert escape(path) == name


def text(found: list[File], name: str) -> str:
    (file,) = [file for file in found if file.path.name == name]
    return file.content.decode()


def test_the_files_of_a_client_of_8() -> None:
    found = files(
        mounts({"interfaces": ["ib0", "eth0"]}, {"path": "/b", "client_port": 8014, "options": ["noatime"]}),
        EIGHT,
        "wait",
    )
    assert [str(file.path) for file in found] == [
        "/etc/beegfs/beegfs-client.conf",
        "/etc/beegfs/beegfs-client.interfaces",
        "/etc/beegfs/conn.auth",
        "/etc/systemd/system/mnt-beegfs.mount",
        "/etc/beegfs/beegfs-client-b.conf",
        "/etc/systemd/system/b.mount",
        "/etc/systemd/system/slurmd.service.d/hpc-compute-beegfs.conf",
    ]
    assert text(found, "beegfs-client.conf") == (
        f"{MARK}\nconnAuthFile = /etc/beegfs/conn.auth\nconnClientPort = 8004\nconnDisableAuthentication = false\n"
        "connInterfacesFile = /etc/beegfs/beegfs-client.interfaces\nconnMaxInternodeNum = 12\nconnMgmtdPort = 8008\n"
        "connUseRDMA = true\nsysMgmtdHost = mgmt\n"
    )
    assert text(found, "beegfs-client.interfaces") == f"{MARK}\nib0\neth0\n"
    auth = next(file for file in found if file.path.name == "conn.auth")
    assert (auth.content, auth.mode, auth.secret) == (SECRET, 0o400, True)
    assert "secret" not in repr(auth).replace("secret=True", "")
    unit = text(found, "b.mount")
    assert "Options=cfgFile=/etc/beegfs/beegfs-client-b.conf,_netdev,nosuid,nodev,noatime\n" in unit
    assert "Before=slurmd.service\n" in unit
    assert "helperd" not in unit
    assert "Wants=mnt-beegfs.mount b.mount\nAfter=mnt-beegfs.mount b.mount\n" in text(found, "hpc-compute-beegfs.conf")


def test_the_files_of_a_client_of_7() -> None:
    found = files(mounts({}, release=SEVEN, authentication=False, settings={"connPortShift": 10}), SEVEN, "require")
    conf = text(found, "beegfs-client.conf")
    for line in ("connClientPortUDP = 8004", "connMgmtdPortTCP = 8008", "connMgmtdPortUDP = 8008", "connAuthFile = ",
                 "connDisableAuthentication = true"):  # fmt: skip
        assert f"\n{line}\n" in conf
    helperd = text(found, "beegfs-helperd.conf")
    assert "connDisableAuthentication = true\n" in helperd
    assert "connPortShift = 10\n" in helperd
    assert "Wants=beegfs-helperd.service\nAfter=beegfs-helperd.service\n" in text(found, "mnt-beegfs.mount")
    assert "Requires=mnt-beegfs.mount\n" in text(found, "hpc-compute-beegfs.conf")
    assert not [file for file in found if file.path.suffix == ".auth"]
    assert [file.path.name for file in files(mounts({}), EIGHT, "ignore")][-1] == "mnt-beegfs.mount"
    assert files([], SEVEN, "wait") == []


def test_the_options_of_the_build() -> None:
    assert build_options({}).content.decode() == f"{MARK}\n"
    assert build_options({"B": "2", "A": "1"}).content.decode() == f"{MARK}\nA=1\nB=2\n"


def given(**other: Any) -> dict[str, Any]:
    return {"version": "8.3", "mounts": [ONE], **COMMON, "packages_extra": [], "build_options": {}, **other}


def test_a_good_client_has_no_problems() -> None:
    assert problems(given(), MACHINE) == []
    assert problems(given(image=True, mounts=[], conn_auth=""), MACHINE) == []


@pytest.mark.parametrize(
    ("other", "machine", "words"),
    [
        ({"version": 8.3}, {}, None),
        ({"version": "6.0"}, {}, "beegfs_client_version: expected a series"),
        ({"mounts": [], "conn_auth": ""}, {}, None),
        ({"packages_extra": ["beeond"]}, {}, "found the server package beeond"),
        ({"build_options": {"X": 1}}, {}, "expected keys of OFED_INCLUDE_PATH"),
        ({}, {"packages": {"beegfs-storage": "20:8.3.1"}}, "no BeeGFS server, found beegfs-storage installed"),
        ({}, {"kernels": []}, "expected an installed kernel"),
        ({"version": "7.4.6"}, {}, f"for kernels up to 6.11, found {KERNEL} installed"),
        ({"version": "7.4.6", "kernel_check": False}, {}, None),
        ({}, {"packages": OLDER, "in_use": USED}, "to be unused, found /b by 7 python. Nothing was changed"),
        ({"remount": "later"}, {"packages": OLDER, "in_use": USED}, None),
        ({"version": "7.4"}, {"packages": OLDER, "in_use": USED}, None),
        ({}, {"packages": OLDER, "in_use": {}}, None),
    ],
)
def test_the_machine_and_the_rest_are_checked(
    other: dict[str, Any], machine: dict[str, Any], words: str | None
) -> None:
    found = problems(given(**other), {**MACHINE, **machine})
    assert len(found) == (1 if words else 0), found
    assert (words or "") in "".join(found)
