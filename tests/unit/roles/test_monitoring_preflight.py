# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each mistake in the variables of monitoring_stack and monitoring_server is told before anything is touched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from .test_preflight import Play, failures

ROLES = Path(__file__).resolve().parents[3] / "roles"

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
TLS = {"monitoring_stack_tls_certificate": CERTIFICATE, "monitoring_stack_tls_key": KEY}
HASH = "$2y$10$" + "a" * 53

#: case: (variables, what the message must say)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "address": ({"monitoring_stack_bind_address": "eth0"}, r"it is 'eth0'"),
    "address6": ({"monitoring_stack_bind_address": "::1"}, r"an IPv6 address in brackets"),
    "lone-key": ({"monitoring_stack_tls_key": KEY}, r"belong together; only one"),
    "key-no-pem": ({**TLS, "monitoring_stack_tls_key": "c2VjcmV0"}, r"tls_key must be PEM text"),
    "cert-no-pem": ({**TLS, "monitoring_stack_tls_certificate": "cert.pem"}, r"tls_certificate must be PEM text"),
    "ca-no-pem": ({**TLS, "monitoring_stack_tls_client_ca": "ca.pem"}, r"tls_client_ca must be PEM text"),
    "lone-ca": ({"monitoring_stack_tls_client_ca": CERTIFICATE}, r"asks for client certificates, which needs"),
    "clear": ({"monitoring_stack_basic_auth_passwords": {"p": "c2VjcmV0"}}, r"send a password in the clear"),
    "no-hash": ({**TLS, "monitoring_stack_basic_auth_users": {"p": "c2VjcmV0"}}, r"not so for p\."),
    "twice": (
        {
            **TLS,
            "monitoring_stack_basic_auth_users": {"p": HASH},
            "monitoring_stack_basic_auth_passwords": {"p": "c2VjcmV0"},
        },
        r"both a hash and a password: p\.",
    ),
    "mounts": ({"monitoring_stack_mount_points_exclude": r"^/run\."}, r"no spaces, quotes or backslashes"),
    "option": ({"monitoring_stack_node_exporter_options": ["--x y"]}, r"found --x y\."),
    "ports": ({"monitoring_stack_node_exporter_port": 9400}, r"two ports; they are 9400 and 9400"),
    "counter": ({"monitoring_stack_dcgm_extra_counters": ["DCGM_FI_X gauge"]}, r"found DCGM_FI_X gauge\."),
    "engine": ({"monitoring_stack_dcgm_hostengine": "localhost"}, r"it is 'localhost'"),
    "repository": ({"monitoring_stack_dcgm_repository": {"name": "x"}}, r"needs name, uris and suites"),
    "old-exporter": (
        {"monitoring_stack_dcgm_exporter_version": "4.8.1-1"},
        r"must be 4\.8\.2 or newer; it is 4\.8\.1-1",
    ),
    "older-exporter": ({"monitoring_stack_dcgm_exporter_version": "4.7.*"}, r"4\.8\.2 or newer; it is 4\.7"),
    "interval": ({"monitoring_stack_dcgm_exporter_interval_ms": 15}, r"100 or more; it is 15"),
}
FINE: dict[str, dict[str, Any]] = {
    "zero": {},
    "off": {"monitoring_stack_enabled": False, "monitoring_stack_bind_address": "eth0"},
    "everywhere": {"monitoring_stack_bind_address": ""},
    "six": {"monitoring_stack_bind_address": "[fd00::1]", "monitoring_stack_dcgm_hostengine": "[fd00::2]:5555"},
    "files": {
        "monitoring_stack_tls_certificate": "/etc/ssl/x.crt",
        "monitoring_stack_tls_key": "/etc/ssl/x.key",
        "monitoring_stack_tls_client_ca": "/etc/ssl/ca.crt",
        "monitoring_stack_basic_auth_users": {"p": HASH},
    },
    "exporter": {"monitoring_stack_dcgm_exporter_version": "4.10.*"},
    "more": {
        "monitoring_stack_node_exporter_options": ["--collector.ethtool", "--collector.netdev.device-exclude=^(lo)$"],
        "monitoring_stack_dcgm_extra_counters": ["DCGM_FI_DEV_FAN_SPEED, gauge, Fan speed in percent."],
        "monitoring_stack_dcgm_repository": {},
        "monitoring_stack_dcgm_hostengine": "",
    },
}


def test_each_mistake_is_named_and_nothing_else_fails(play: Play) -> None:
    hosts = {**{name: own for name, (own, _) in BAD.items()}, **FINE}
    task = {"ansible.builtin.import_role": {"name": "hpc.compute.monitoring_stack", "tasks_from": "preflight"}}
    output = play(hosts, [task])
    told = failures(output)
    assert set(told) == set(BAD), output
    for name, (_, words) in BAD.items():
        assert re.search(words, told[name]), f"{name}: {told[name]}"
    assert "c2VjcmV0" not in output


SERVER: dict[str, tuple[dict[str, Any], str]] = {
    "nobody": ({"monitoring_server_nodes": []}, r"monitoring_server_nodes is empty"),
    "stranger": ({"monitoring_server_nodes": ["elsewhere"]}, r"not in the inventory: elsewhere"),
    "user": ({"monitoring_server_nodes": ["user"], "monitoring_server_user": "p"}, r"belong together"),
    "clear": (
        {
            "monitoring_server_nodes": ["user"],
            "monitoring_server_user": "p",
            "monitoring_server_password_file": "/x",
        },
        r"send a password in the clear",
    ),
    "clear-text": (
        {
            "monitoring_server_nodes": ["user"],
            "monitoring_server_user": "p",
            "monitoring_server_password_file": "/x",
            "monitoring_server_tls": "false",
        },
        r"send a password in the clear",
    ),
    "ca": (
        {
            "monitoring_server_nodes": ["user"],
            "monitoring_server_tls": True,
            "monitoring_server_tls_ca_file": "/etc/passwd",
        },
        r"found no certificate in it: /etc/passwd",
    ),
    "span": ({"monitoring_server_nodes": ["user"], "monitoring_server_scrape_interval": "15"}, r"it is '15'"),
}


def test_the_server_is_told_too(play: Play) -> None:
    task = {"ansible.builtin.import_role": {"name": "hpc.compute.monitoring_server"}}
    output = play({name: own for name, (own, _) in SERVER.items()}, [task])
    told = failures(output)
    assert set(told) == set(SERVER), output
    for name, (_, words) in SERVER.items():
        assert re.search(words, told[name]), f"{name}: {told[name]}"


def written(play: Play, folder: Path, role: str, hosts: dict[str, dict[str, Any]], text: str) -> dict[str, str]:
    """What *text* comes to with the role's variables, for each host."""
    defaults = yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())
    variables = ROLES / role / "vars"
    tasks = [
        {"ansible.builtin.include_vars": {"dir": str(variables)}},
        {"ansible.builtin.copy": {"content": text, "dest": f"{folder}/{{{{ inventory_hostname }}}}.out"}},
    ]
    output = play({name: {**defaults, **own} for name, own in hosts.items()}, tasks)
    assert "failed=1" not in output, output
    return {name: (folder / f"{name}.out").read_text() for name in hosts}


def test_a_switch_may_be_text_as_on_the_command_line(play: Play, tmp_path: Path) -> None:
    counters = ROLES / "monitoring_stack/templates/dcgm-counters.csv.j2"
    hosts = {
        name: {"monitoring_stack_dcgm_enabled": value, "monitoring_stack_dcgm_profiling": value}
        for name, value in (("off", "false"), ("on", "true"))
    }
    names = f"__monitoring_stack_units, __monitoring_stack_dcgm_core, lookup('template', '{counters}')"
    asked = f"{{{{ [{names}] | to_json }}}}"
    found = {name: json.loads(text) for name, text in written(play, tmp_path, "monitoring_stack", hosts, asked).items()}
    for name, wanted in (("off", False), ("on", True)):
        units, packages, lines = found[name]
        assert ("nvidia-dcgm-exporter.service" in units) is wanted
        assert ("nvidia-dcgm.service" in units) is wanted
        assert ("datacenter-gpu-manager-4-proprietary" in packages) is wanted
        assert ("DCGM_FI_PROF_" in lines) is wanted


def test_beegfs_mounts_are_among_the_units(play: Play, tmp_path: Path) -> None:
    mounts = [{"path": "/mnt/beegfs"}, {"path": "/scratch/bee-1"}]
    hosts: dict[str, dict[str, Any]] = {"with": {"beegfs_client_mounts": mounts}, "without": {}}
    asked = "{{ __monitoring_stack_node_exporter_arguments[2] }}"
    found = written(play, tmp_path, "monitoring_stack", hosts, asked)
    pattern = {name: text.removeprefix("--collector.systemd.unit-include=") for name, text in found.items()}
    for unit in ("mnt-beegfs.mount", r"scratch-bee\x2d1.mount"):
        assert re.fullmatch(pattern["with"], unit)
        assert not re.fullmatch(pattern["without"], unit)
    for unit in ("beegfs-helperd.service", "slurmd.service"):
        assert re.fullmatch(pattern["with"], unit)
    assert not re.fullmatch(pattern["with"], "home.mount")


def test_targets_are_addresses_that_prometheus_can_read(play: Play, tmp_path: Path) -> None:
    template = ROLES / "monitoring_server/templates/scrape.yml.j2"
    hosts: dict[str, dict[str, Any]] = {
        "six": {"ansible_host": "fd00::1"},
        "brackets": {"ansible_host": "[fd00::2]"},
        "four": {"ansible_host": "10.0.0.1"},
    }
    own = {"monitoring_server_nodes": list(hosts), "monitoring_server_tls": "false"}
    found = written(
        play,
        tmp_path,
        "monitoring_server",
        {name: {**one, **own} for name, one in hosts.items()},
        f"{{{{ lookup('template', '{template}') }}}}",
    )
    job = yaml.safe_load(found["four"])["scrape_configs"][0]
    targets = {one["labels"]["node"]: one["targets"] for one in job["static_configs"]}
    assert targets == {"six": ["[fd00::1]:9100"], "brackets": ["[fd00::2]:9100"], "four": ["10.0.0.1:9100"]}
    assert "scheme" not in job
