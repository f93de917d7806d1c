# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each mistake in the variables of monitoring_stack and monitoring_server is told before anything is touched."""

from __future__ import annotations

import re
from typing import Any

from .test_preflight import Play, failures

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
    "span": ({"monitoring_server_nodes": ["user"], "monitoring_server_scrape_interval": "15"}, r"it is '15'"),
}


def test_the_server_is_told_too(play: Play) -> None:
    task = {"ansible.builtin.import_role": {"name": "hpc.compute.monitoring_server"}}
    output = play({name: own for name, (own, _) in SERVER.items()}, [task])
    told = failures(output)
    assert set(told) == set(SERVER), output
    for name, (_, words) in SERVER.items():
        assert re.search(words, told[name]), f"{name}: {told[name]}"
