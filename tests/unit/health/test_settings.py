# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings: everything has a default, and what means nothing is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.hpc.compute.plugins.module_utils.health.settings import (
    _READERS,
    CHECKS,
    SETTINGS,
    Disk,
    Settings,
    SettingsError,
    parse_settings,
    read_settings,
)

ROLE = Path(__file__).resolve().parents[3] / "roles/slurm_compute"


def test_everything_has_a_default(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()
    assert {name: Settings().mode(name) for name in CHECKS} == CHECKS


def test_all_of_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / SETTINGS
    path.parent.mkdir(parents=True)
    data = {
        "checks": {"clock": "off", "disk": "warn"},
        "disks": [{"path": "/scratch", "free_percent": 1, "free_mib": 100, "free_inodes_percent": 0}, {"path": "/"}],
        "mounts": ["/home"],
        "xids": {"13": "drain", "79": "ignore"},
        "uncorrected_errors": 4,
        "memory_available_mib": 1000,
        "driver_timeout": 12.5,
        "mount_timeout": 3,
        "resume": ["mounts", "all"],
        "kernel_log": "/var/log/kern.log",
        "epilog_kill": True,
        "epilog_wait": 30,
        "epilog_memory_mib": 2000,
    }
    assert set(data) == set(_READERS)
    path.write_text(json.dumps(data))
    assert read_settings(tmp_path) == Settings(
        checks={"clock": "off", "disk": "warn"},
        disks=(Disk("/scratch", 1, 100, 0), Disk("/")),
        mounts=("/home",),
        xids={13: "drain", 79: "ignore"},
        uncorrected_errors=4,
        memory_available_mib=1000,
        driver_timeout=12.5,
        mount_timeout=3,
        resume=("mounts", "all"),
        kernel_log="/var/log/kern.log",
        epilog_kill=True,
        epilog_wait=30,
        epilog_memory_mib=2000,
    )
    assert parse_settings('{"kernel_log": "journal"}') == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected JSON"),
        ("[1]", r"expected an object with settings, found '\[1\]'"),
        ('{"disk": 1}', "expected only the keys checks, .*, found 'disk'"),
        ('{"checks": []}', "checks: expected an object"),
        ('{"checks": {"disc": "off"}}', "checks: expected checks of driver, .*, found 'disc'"),
        ('{"checks": {"disk": "fail"}}', "checks.disk: expected drain or warn or off, found 'fail'"),
        ('{"xids": {"x": "drain"}}', "xids: expected numbers of Xids, found 'x'"),
        ('{"xids": {"79": "off"}}', "xids.79: expected drain or warn or ignore"),
        ('{"disks": {}}', "disks: expected a list"),
        ('{"disks": [{}]}', "disks: expected absolute paths, found None"),
        ('{"disks": [{"path": "/", "size": 1}]}', "disks: expected path, free_percent, .*, found 'size'"),
        ('{"disks": [{"path": "/", "free_mib": "1"}]}', "disks.free_mib: expected a number"),
        ('{"disks": [{"path": "/", "free_mib": true}]}', "disks.free_mib: expected a number"),
        ('{"disks": [{"path": "/", "free_mib": 1e999}]}', "disks.free_mib: expected a number"),
        ('{"disks": [{"path": "/", "free_percent": 101}]}', "disks.free_percent: expected percent"),
        ('{"mounts": "/home"}', "mounts: expected a list of paths"),
        ('{"mounts": ["home"]}', "mounts: expected absolute paths, found 'home'"),
        ('{"resume": "all"}', "resume: expected a list of checks"),
        ('{"resume": [1]}', "resume: expected a list of checks"),
        ('{"resume": ["disc"]}', "resume: expected checks of .*, or all, found 'disc'"),
        ('{"kernel_log": "dmesg"}', "kernel_log: expected absolute paths"),
        ('{"uncorrected_errors": 1.5}', "uncorrected_errors: expected a whole number"),
        ('{"uncorrected_errors": -1}', "uncorrected_errors: expected a number that is not negative"),
        ('{"driver_timeout": 0}', "driver_timeout: expected more than 0 and at most 30 seconds"),
        ('{"driver_timeout": 31}', "driver_timeout: .* at most 30"),
        ('{"epilog_kill": "yes"}', "epilog_kill: expected true or false"),
    ],
)
def test_what_means_nothing_is_named(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_settings(text)


@pytest.mark.parametrize("content", [b'{"a": 1}', b"\xff"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / SETTINGS
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=re.escape(str(path))):
        read_settings(tmp_path)


def test_the_role_knows_the_same_keys_and_checks() -> None:
    variables = yaml.safe_load((ROLE / "vars/main/node_health.yml").read_text())
    assert variables["__slurm_compute_node_health_keys"] == list(_READERS)
    assert variables["__slurm_compute_node_health_checks"] == list(CHECKS)
