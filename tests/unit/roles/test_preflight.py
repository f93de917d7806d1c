# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each mistake in slurm_compute's variables is told in words, before anything is touched, and all of them at once."""

from __future__ import annotations

import base64
import re
from typing import Any, Protocol

import pytest

from .conftest import REPO

KEY = base64.b64encode(bytes(range(128))).decode()
GOOD: dict[str, Any] = {
    "slurm_compute_cluster_name": "gpu",
    "slurm_compute_controllers": ["ctl(10.0.0.1)", "ctl2"],
    "slurm_compute_munge_key": KEY,
}

DYNAMIC: dict[str, Any] = {"slurm_compute_dynamic": True, "slurm_compute_slurm_conf": {"MaxNodeCount": 9}}

#: case: (variables over GOOD, what the message must say)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-name": ({"slurm_compute_cluster_name": ""}, r"slurm_compute_cluster_name must be"),
    "capital-name": ({"slurm_compute_cluster_name": "GPU"}, r"it is 'GPU'"),
    "no-controller": ({"slurm_compute_controllers": []}, r"slurm_compute_controllers is empty"),
    "controller-port": ({"slurm_compute_controllers": ["ctl:6817"]}, r"without a port .*not so: ctl:6817"),
    "no-key": (
        {"slurm_compute_munge_key": ""},
        r"from exactly one .*given: none\. A key that Debian",
    ),
    "two-keys": (
        {"slurm_compute_munge_key_existing": True},
        r"given: slurm_compute_munge_key, slurm_compute_munge_key_e",
    ),
    "short-key": ({"slurm_compute_munge_key": "c2hvcnQ="}, r"not the base64 text of a munge key \(at least 32 bytes\)"),
    "no-base64": ({"slurm_compute_munge_key": "?" * 60}, r"not the base64 text of a munge key"),
    "no-key-file": (
        {"slurm_compute_munge_key": "", "slurm_compute_munge_key_file": "/nonexistent/key"},
        r"no file /nonexistent/key on the control machine",
    ),
    "short-key-file": (
        {"slurm_compute_munge_key": "", "slurm_compute_munge_key_file": str(REPO / "changelogs/fragments/.gitkeep")},
        r"expected a munge key of 32 to 1024 bytes, found 0 bytes",
    ),
    "no-site-key": (
        {"slurm_compute_munge_key": "", "slurm_compute_munge_key_existing": True},
        r"there is no /nonexistent/munge\.key",
    ),
    "outside": (
        {"slurm_compute_hosts": ["outside", "elsewhere"]},
        r"this run knows nothing of elsewhere \(not in the play",
    ),
    "hostlist": ({"slurm_compute_node_name": "n[1-4]"}, r"one node's name, not a host list; it is 'n\[1-4\]'"),
    "node-gres": ({"slurm_compute_node_options": {"gres": "gpu:8", "Weight": 1}}, r"must not hold gres: names"),
    "gres-without-gpus": (
        {"slurm_compute_gpus": False, "slurm_compute_gres": "gpu:1"},
        r"although slurm_compute_gpus",
    ),
    "names-under-nvml": (
        {"slurm_compute_gres_types": {"nvidia_h100": "h100"}},
        r"gives names to types, which needs slurm_compute_gres_autodetect: \S*off\S*; it is nvml",
    ),
    "name-of-a-digit": (
        {"slurm_compute_gres_autodetect": "off", "slurm_compute_gres_types": {"*_1g.5gb": "1g.5gb", "a": "b c"}},
        r"found 1g\.5gb, b c\. A last word",
    ),
    "no-share": (
        {"slurm_compute_shards": {"nvidia_l40s": 0, "t4": 4}, "slurm_compute_mps": {"a30": "all"}},
        r"from 1 on for each GPU, found nvidia_l40s, a30\.",
    ),
    "static-without-gpus": (
        {"slurm_compute_gres_autodetect": False, "slurm_compute_gpus": False},
        r"are about GPUs, but slurm_compute_gpus is false",
    ),
    "two-prologs": (
        {"slurm_compute_gres_autodetect": "off", "slurm_compute_slurm_conf": {"TaskProlog": "/site"}},
        r"has TaskProlog=/site, but Slurm runs one TaskProlog only.*Give yours as slurm_compute_task_prolog",
    ),
    "no-version": (
        {"slurm_compute_package_source": "debs", "slurm_compute_package_debs": "/debs"},
        r"slurm_compute_package_version is empty, but packages come from a debs source",
    ),
    "odd-version": (
        {"slurm_compute_package_version": "latest"},
        r"expected a version or a glob of one release.*'latest'",
    ),
    "old-version": (
        {"slurm_compute_package_version": "22.05.8-1"},
        r"expected Slurm 23\.11 or newer, found 22\.05\.8-1",
    ),
    "no-repository": (
        {"slurm_compute_package_source": "repository", "slurm_compute_package_version": "24.11.*"},
        r"slurm_compute_package_repository is empty\. They go together",
    ),
    "unused-debs": (
        {"slurm_compute_package_debs": "/debs"},
        r"source is debian, and slurm_compute_package_debs is /debs",
    ),
    "schedmd-from-debian": ({"slurm_compute_package_names": "schedmd"}, r"Debian has no such packages"),
    "too-new": (
        {
            "slurm_compute_package_source": "debs",
            "slurm_compute_package_debs": "/debs",
            "slurm_compute_package_version": "23.11.4-1",
            "slurm_compute_cgroup_conf": {"SystemdTimeout": 2000},
            "slurm_compute_slurm_conf": {"PrologFlags": ["Contain", "RunInJob"]},
        },
        r"Slurm 23\.11 .* does not know SystemdTimeout, PrologFlags=RunInJob, and",
    ),
    "dynamic-uncounted": ({"slurm_compute_dynamic": True}, r"slurm_compute_dynamic needs MaxNodeCount"),
    "dynamic-address": (
        {**DYNAMIC, "slurm_compute_node_addr": "10.0.0.1"},
        r"takes the address of a dynamic node from its connection",
    ),
    "dynamic-gpu-partition": (
        {**DYNAMIC, "slurm_compute_partitions": [{"name": "g", "nodes": "gpu"}]},
        r"has nodes gpu, which slurm\.conf can't name",
    ),
    "dynamic-quotes": (
        {**DYNAMIC, "slurm_compute_node_options": {"Comment": "two words"}},
        r"expected values without spaces and quotes",
    ),
    "prolog-list": ({"slurm_compute_task_prolog": "/a,/b"}, r"the path of one program on the nodes; it is '/a,/b'"),
    "fatal-cgroup-key": (
        {"slurm_compute_cgroup_conf": {"ConstrainKmemSpace": True}},
        r"refuses to start with: ConstrainKmemSpace\. Known, in this spelling: AllowedRAMSpace",
    ),
    "dead-cgroup-key": ({"slurm_compute_cgroup_conf": {"CgroupAutomount": True}}, r"CgroupAutomount"),
    "own-variable": (
        {"slurm_compute_slurm_conf": {"clusterName": "x"}},
        r"clusterName \(use slurm_compute_cl",
    ),
    "obsolete": (
        {"slurm_compute_slurm_conf": {"ControlMachine": "x"}},
        r"Machine \(use slurm_compute_controllers\)",
    ),
    "respelt": (
        {"slurm_compute_slurm_conf": {"proctracktype": "x"}},
        r"twice: proctracktype\. The role's",
    ),
    "nested": ({"slurm_compute_slurm_conf": {"SlurmdParameters": {"a": 1}}}, r"not so: SlurmdParameters"),
    "no-database": (
        {"slurm_compute_slurm_conf": {"AccountingStorageTRES": ["gres/gpu"]}},
        r"slurmctld starts only beside AccountingStorageType",
    ),
    "health-key": (
        {"slurm_compute_node_health_settings": {"disk": [], "checks": {"mount": "off"}}},
        r"settings has keys or checks that mean nothing: disk, mount\. Known keys: checks, disks",
    ),
    "health-program": (
        {
            "slurm_compute_prolog_programs": ["/nonexistent/a"],
            "slurm_compute_epilog_programs": [str(REPO / "pyproject.toml")],
        },
        r"not so: /nonexistent/a, pyproject\.toml\.",
    ),
    "health-off": (
        {"slurm_compute_node_health": False, "slurm_compute_prolog_programs": ["/etc/hostname"]},
        r"are run by the role's own prolog and epilog, which slurm_compute_node_health",
    ),
    "respelt-health": ({"slurm_compute_slurm_conf": {"prolog": "/x"}}, r"twice: prolog\."),
    "twice": ({"slurm_compute_partitions": [{"name": "a"}, {"name": "a"}]}, r"names a partition twice: a, a"),
    "nodes": ({"slurm_compute_partitions": [{"name": "a", "nodes": "n1"}]}, r"a list of node names; not so in a\."),
    "bookworm": ({}, r"made for Debian 13.*bookworm is Debian 12"),
}
FINE: dict[str, dict[str, Any]] = {
    "plain": {},
    "strings": {"slurm_compute_gpus": "false", "slurm_compute_munge_key_existing": "no"},
    "key-file": {"slurm_compute_munge_key": "", "slurm_compute_munge_key_file": str(REPO / ".gitignore")},
    "configless": {"slurm_compute_config_mode": "configless", "slurm_compute_cluster_name": ""},
    "image": {
        "hpc_image_build": True,
        "slurm_compute_cluster_name": "",
        "slurm_compute_controllers": [],
        "slurm_compute_munge_key": "",
    },
    "static": {
        "slurm_compute_gres_autodetect": False,  # what YAML makes of an unquoted off
        "slurm_compute_gres_types": {"nvidia_a100*_1g.5gb": "a100-1g.5gb"},
        "slurm_compute_shards": {"nvidia_l40s": 4},
        "slurm_compute_mps": {"t4": "100"},
        "slurm_compute_task_prolog": "/opt/site/prolog",
        "slurm_compute_slurm_conf": {"TaskProlog": None},
    },
    "prolog-of-the-site": {"slurm_compute_slurm_conf": {"TaskProlog": "/opt/site/prolog"}},
    "health": {
        "slurm_compute_node_health_settings": {"checks": {"clock": "off"}, "mounts": ["/home"]},
        "slurm_compute_prolog_programs": ["/etc/hostname"],
    },
    "null": {
        "slurm_compute_slurm_conf": {"DefMemPerCPU": None},
        "slurm_compute_cgroup_conf": {"ConstrainSwapSpace": None},
    },
    "partitions": {
        "slurm_compute_partitions": [{"name": "a", "nodes": "gpu"}, {"name": "b", "nodes": ["n1"]}, {"name": "c"}]
    },
}
PREFLIGHT = {
    "ansible.builtin.import_role": {"name": "hpc.compute.slurm_compute", "tasks_from": "preflight"},
    # a key that happens to be on the machine of the tests must not decide them
    "vars": {"__slurm_compute_munge_key_path": "/nonexistent/munge.key"},
}


class Play(Protocol):
    def __call__(self, hosts: Any, tasks: Any, facts: Any = None) -> str: ...


def failures(output: str) -> dict[str, str]:
    """The failure of each host, on one line."""
    found = re.findall(r"^fatal: \[([\w-]+)\]: FAILED! => (\{.*?\}$)", output, re.MULTILINE | re.DOTALL)
    return {host: " ".join(text.split()) for host, text in found}


@pytest.fixture
def hosts() -> dict[str, dict[str, Any]]:
    cases = {name: {**GOOD, **own} for name, (own, _) in BAD.items()}
    return {**cases, **{name: {**GOOD, **own} for name, own in FINE.items()}}


def test_each_mistake_is_named_and_nothing_else_fails(play: Play, hosts: dict[str, dict[str, Any]]) -> None:
    output = play(hosts, [PREFLIGHT], {"bookworm": {"ansible_distribution_major_version": "12"}})
    told = failures(output)
    assert set(told) == set(BAD), output
    for name, (_, words) in BAD.items():
        assert re.search(words, told[name]), f"{name}: {told[name]}"
    assert KEY not in output


def test_all_mistakes_are_told_at_once(play: Play) -> None:
    told = failures(play({"bare": {}}, [PREFLIGHT]))["bare"]
    for words in ("slurm_compute_cluster_name must be", "slurm_compute_controllers is empty", "munge key is needed"):
        assert words in told


def test_an_installation_without_configuration_asks_for_no_secret(play: Play) -> None:
    install = {**PREFLIGHT, "vars": {"__slurm_compute_configures": False}}
    assert failures(play({"bare": {}}, [install])) == {}
