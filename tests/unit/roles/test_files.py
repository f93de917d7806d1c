# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that the roles write, from made-up nodes: what Slurm and apt would read."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"
CLUSTER: dict[str, Any] = {
    "slurm_compute_cluster_name": "gpu",
    "slurm_compute_controllers": ["ctl(10.0.0.1)", "ctl2"],
}
HARDWARE: dict[str, Any] = {
    "available": True,
    "cpus": 8,
    "boards": 1,
    "sockets": 2,
    "cores_per_socket": 4,
    "threads_per_core": 1,
    "real_memory": 16128,
}
SLICED = {
    "gres": "gpu:h100:1,gpu:h100_1g.10gb:2",
    "accounting_tres": ["gres/gpu", "gres/gpu:h100", "gres/gpu:h100_1g.10gb"],
}
NO_GPU: dict[str, Any] = {"gres": "", "accounting_tres": []}


class Play(Protocol):
    def __call__(self, hosts: Any, tasks: Any, facts: Any = None) -> str: ...


class Write(Protocol):
    def __call__(self, hosts: dict[str, dict[str, Any]], template: str) -> dict[str, str]: ...


@pytest.fixture
def write(play: Play, tmp_path: Path) -> Write:
    """Let each host, with its variables, write a template of slurm_compute: the text by host."""

    def run(hosts: dict[str, dict[str, Any]], template: str) -> dict[str, str]:
        role = ROLES / "slurm_compute"
        publish = {"tasks/result.yml": "Publish what the cluster's configuration says about this node"}
        tasks = [
            {"ansible.builtin.include_vars": {"dir": str(role / "vars/main")}},
            *task_of(role, publish),
            {
                "ansible.builtin.template": {
                    "src": str(role / "templates" / template),
                    "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}.out",
                }
            },
        ]
        nothing = {"__slurm_compute_gres_prediction": NO_GPU, "__slurm_compute_node_info": HARDWARE}
        defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
        output = play({name: {**defaults, **CLUSTER, **nothing, **own} for name, own in hosts.items()}, tasks)
        assert "failed=1" not in output, output
        return {name: (tmp_path / f"{name}.out").read_text() for name in hosts}

    return run


def task_of(role: Path, wanted: dict[str, str]) -> list[dict[str, Any]]:
    """Tasks of the role itself, by file and name, so that the test has none of its own."""
    return [
        task
        for file, name in wanted.items()
        for task in yaml.safe_load((role / file).read_text())
        if task["name"] == name
    ]


def test_slurm_conf_is_the_same_on_all_nodes_and_has_them_all(write: Write) -> None:
    texts = write(
        {
            "n2": {"__slurm_compute_gres_prediction": SLICED, "slurm_compute_node_addr": "10.0.0.12"},
            "n1": {"__slurm_compute_node_info": {**HARDWARE, "boards": 2, "real_memory": 8128}},
        },
        "slurm.conf.j2",
    )
    assert texts["n1"] == texts["n2"]
    lines = texts["n1"].splitlines()
    hardware = "CPUs=8 Boards=1 SocketsPerBoard=2 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=16000"
    first = lines.index(
        "NodeName=n1 CPUs=8 Boards=2 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=8000"
    )
    assert lines[first + 1] == f"NodeName=n2 NodeAddr=10.0.0.12 {hardware} Gres=gpu:h100:1,gpu:h100_1g.10gb:2"
    assert lines.index("SlurmctldHost=ctl(10.0.0.1)") + 1 == lines.index("SlurmctldHost=ctl2")
    assert "ClusterName=gpu" in lines
    assert "AccountingStorageTRES" not in texts["n1"]  # slurmctld would refuse to start without its database
    assert "DefMemPerCPU=1000" in lines  # of the node that has least of it
    assert "TaskPlugin=task/cgroup,task/affinity" in lines
    assert "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" in lines


def test_a_cluster_with_a_database_accounts_for_every_gpu_type(write: Write) -> None:
    own = {"slurm_compute_slurm_conf": {"AccountingStorageType": "accounting_storage/slurmdbd"}}
    lines = write({"n1": own, "n2": {**own, "__slurm_compute_gres_prediction": SLICED}}, "slurm.conf.j2")[
        "n1"
    ].splitlines()
    assert "AccountingStorageTRES=gres/gpu,gres/gpu:h100,gres/gpu:h100_1g.10gb" in lines
    assert "AccountingStorageTRES" not in write({"n1": own}, "slurm.conf.j2")["n1"]  # no GPU to account for


def test_partitions_find_the_nodes_that_have_gpus(write: Write) -> None:
    own = {
        "slurm_compute_extra_node_lines": ["NodeName=old[1-2] CPUs=4", "nodename=far CPUs=4 gres=gpu:v100:2"],
        "slurm_compute_partitions": [
            {"name": "gpu", "nodes": "gpu", "options": {"Default": True, "MaxTime": None}},
            {"name": "some", "nodes": ["n1", "old1"], "options": {"AllowGroups": ["a", "b"]}},
        ],
    }
    lines = write({"n1": own, "n2": {**own, "__slurm_compute_gres_prediction": SLICED}}, "slurm.conf.j2")[
        "n1"
    ].splitlines()
    assert "PartitionName=gpu Nodes=n2,far Default=YES" in lines
    assert "PartitionName=some Nodes=n1,old1 AllowGroups=a,b" in lines
    assert "NodeName=old[1-2] CPUs=4" in lines


def test_a_gpu_partition_without_gpus_swallows_no_other_key(write: Write) -> None:
    own = {"slurm_compute_partitions": [{"name": "gpu", "nodes": "gpu", "options": {"Default": True}}]}
    assert "PartitionName=gpu Default=YES" in write({"n1": own}, "slurm.conf.j2")["n1"].splitlines()


def test_one_node_in_static_mode_gives_all_the_task_prolog(write: Write) -> None:
    prolog = "TaskProlog=/usr/libexec/hpc-compute/task-prolog"
    named = {"gres": "gpu:a100-1g.5gb:7", "gres_types": ["gpu"], "accounting_tres": ["gres/gpu"]}
    static = {"slurm_compute_gres_autodetect": "off", "__slurm_compute_gres_prediction": named}
    texts = write({"n1": {}, "n2": static}, "slurm.conf.j2")
    assert texts["n1"] == texts["n2"]
    assert prolog in texts["n1"].splitlines()
    assert "GresTypes=gpu" in texts["n1"].splitlines()
    assert "TaskProlog" not in write({"n1": {}}, "slurm.conf.j2")["n1"]
    own = {"slurm_compute_slurm_conf": {"TaskProlog": "/site"}}
    assert "TaskProlog=/site" in write({"n1": own}, "slurm.conf.j2")["n1"].splitlines()
    assert prolog in write({"n1": {"slurm_compute_task_prolog": "/site"}}, "slurm.conf.j2")["n1"].splitlines()


def test_slurm_runs_the_health_checks_unless_they_are_off_or_the_sites_own(write: Write) -> None:
    lines = write({"n1": {"slurm_compute_node_health_interval": 60}}, "slurm.conf.j2")["n1"].splitlines()
    for line in (
        "Prolog=/usr/libexec/hpc-compute/prolog",
        "Epilog=/usr/libexec/hpc-compute/epilog",
        "HealthCheckProgram=/usr/libexec/hpc-compute/health-check",
        "HealthCheckInterval=60",
        "SchedulerParameters=nohold_on_prolog_fail",
    ):
        assert line in lines
    programs = ROLES / "slurm_compute/files/libexec"
    assert all((programs / name).stat().st_mode & 0o111 for name in ("prolog", "epilog", "health-check"))
    own = {"slurm_compute_slurm_conf": {"Prolog": "/site/prolog", "SchedulerParameters": None}}
    text = write({"n1": own}, "slurm.conf.j2")["n1"]
    assert "Prolog=/site/prolog" in text.splitlines()
    assert "SchedulerParameters" not in text
    text = write({"n1": {"slurm_compute_node_health": False}}, "slurm.conf.j2")["n1"]
    assert not [word for word in ("Prolog=", "Epilog=", "HealthCheck", "SchedulerParameters") if word in text]


def test_a_log_at_another_place_is_rotated(write: Write) -> None:
    own = {"slurm_compute_slurm_conf": {"SlurmdLogFile": "/srv/log/slurmd.%n.log"}}
    text = write({"n1": own}, "logrotate.j2")["n1"]
    assert "\n/srv/log/slurmd.n1.log {\n" in text
    assert "--signal=USR2 slurmd.service" in text


def test_the_kinds_of_gres_of_all_nodes_are_known(write: Write) -> None:
    shards = {
        "gres": "gpu:l40s:2,shard:8",
        "gres_types": ["gpu", "shard"],
        "accounting_tres": ["gres/gpu", "gres/shard"],
    }
    shared = {"slurm_compute_shards": {"l40s": 4}, "__slurm_compute_gres_prediction": shards}
    lines = write({"n1": {}, "n2": shared}, "slurm.conf.j2")["n1"].splitlines()
    assert "GresTypes=gpu,shard" in lines
    assert "TaskProlog=/usr/libexec/hpc-compute/task-prolog" in lines
    assert not [line for line in lines if line.startswith("AccountingStorageTRES")], "without slurmdbd slurmctld exits"
    own = {"slurm_compute_slurm_conf": {"AccountingStorageType": "accounting_storage/slurmdbd"}}
    lines = write({"n1": own, "n2": {**shared, **own}}, "slurm.conf.j2")["n1"].splitlines()
    assert "AccountingStorageTRES=gres/gpu,gres/shard" in lines


def test_keys_are_merged_taken_out_and_spelt_as_slurm_reads_them(write: Write) -> None:
    own = {
        "slurm_compute_slurm_conf": {
            "ProctrackType": "proctrack/linuxproc",
            "DefMemPerCPU": None,
            "MaxJobCount": 20000,
            "TrackWCKey": True,
            "LaunchParameters": ["use_interactive_step", "enable_nss_slurm"],
        }
    }
    text = write({"n1": own}, "slurm.conf.j2")["n1"]
    for line in (
        "ProctrackType=proctrack/linuxproc",
        "MaxJobCount=20000",
        "TrackWCKey=YES",
        "LaunchParameters=use_interactive_step,enable_nss_slurm",
    ):
        assert line in text.splitlines()
    assert "DefMemPerCPU" not in text
    assert text.count("ProctrackType") == 1


def test_a_node_with_another_name_says_where_it_runs(write: Write) -> None:
    own = {"slurm_compute_node_name": "gpu01", "slurm_compute_node_options": {"Feature": "h100", "Weight": 10}}
    line = write({"n1": own}, "slurm.conf.j2")["n1"]
    assert "NodeName=gpu01 NodeHostname=n1 CPUs=8" in line
    assert "RealMemory=16000 Feature=h100 Weight=10\n" in line
    assert 'SLURMD_OPTIONS="-N gpu01"\n' in write({"n1": own}, "slurmd.j2")["n1"]


def test_a_configless_node_knows_all_controllers(write: Write) -> None:
    own = {"slurm_compute_config_mode": "configless", "slurm_compute_slurm_conf": {"SlurmctldPort": "7000-7003"}}
    assert 'SLURMD_OPTIONS="--conf-server 10.0.0.1:7000,ctl2:7000"\n' in write({"n1": own}, "slurmd.j2")["n1"]
    own["slurm_compute_slurm_conf"] = {}
    assert 'SLURMD_OPTIONS="--conf-server 10.0.0.1:6817,ctl2:6817"\n' in write({"n1": own}, "slurmd.j2")["n1"]


def test_a_dynamic_node_introduces_itself_and_has_no_line(write: Write) -> None:
    own = {
        "slurm_compute_dynamic": True,
        "slurm_compute_slurm_conf": {"MaxNodeCount": 9},
        "slurm_compute_node_options": {"Feature": "a,b", "Weight": None},
        "__slurm_compute_gres_prediction": SLICED,
    }
    text = write({"n1": own, "n2": {"slurm_compute_slurm_conf": own["slurm_compute_slurm_conf"]}}, "slurm.conf.j2")[
        "n1"
    ]
    assert "NodeName=n1" not in text
    assert "NodeName=n2" in text
    assert "MaxNodeCount=9" in text.splitlines()
    conf = "RealMemory=16000 Gres=gpu:h100:1,gpu:h100_1g.10gb:2 Feature=a,b"
    assert f"SLURMD_OPTIONS=\"-Z --conf '{conf}'\"\n" in write({"n1": own}, "slurmd.j2")["n1"]


def test_cgroup_conf(write: Write) -> None:
    own = {"slurm_compute_cgroup_conf": {"ConstrainSwapSpace": None, "ConstrainCores": False, "AllowedRAMSpace": 98.5}}
    lines = write({"n1": own}, "cgroup.conf.j2")["n1"].splitlines()[1:]
    assert lines == [
        "AllowedRAMSpace=98.5",
        "CgroupPlugin=cgroup/v2",
        "ConstrainCores=no",
        "ConstrainDevices=yes",
        "ConstrainRAMSpace=yes",
    ]


def test_archive_components_come_from_the_machines_own_sources(play: Play, tmp_path: Path) -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----"
    targets = (
        "@@mirror+file:/etc/apt/mirrors/debian.list/|trixie|$(SIGNED_BY)\n"
        "@@mirror+file:/etc/apt/mirrors/debian.list/|trixie-updates|$(SIGNED_BY)\n"
        "@@mirror+file:/etc/apt/mirrors/debian.list/|trixie-backports|$(SIGNED_BY)\n"
        "@@http://a.example/debian/|trixie|/usr/share/keyrings/a.pgp\n"
        f"@@http://b.example/debian/|trixie-security|{key}\n"
    )
    out = tmp_path / "sources"
    role = ROLES / "apt_packages"
    tasks = [
        {"ansible.builtin.include_vars": {"file": str(role / "vars/main.yml")}},
        {"ansible.builtin.template": {"src": str(role / "templates/components.sources.j2"), "dest": str(out)}},
    ]
    play({"n1": {"apt_packages_components": ["contrib"], "__apt_packages_targets": {"stdout": targets}}}, tasks)
    stanzas = out.read_text().split("\n\n")[1:]
    assert stanzas[0].strip() == (
        "Types: deb\nURIs: http://a.example/debian/\nSuites: trixie\nComponents: contrib\n"
        "Signed-By: /usr/share/keyrings/a.pgp"
    )
    assert stanzas[1].strip() == (
        "Types: deb\nURIs: http://b.example/debian/\nSuites: trixie-security\nComponents: contrib\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----"
    )
    assert stanzas[2].strip() == (
        "Types: deb\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: trixie trixie-updates\nComponents: contrib"
    )
    assert len(stanzas) == 3


def test_a_munge_key_of_any_bytes_arrives_unchanged(play: Play, tmp_path: Path) -> None:
    """The task's way from base64 text to a file; Ansible promises nothing about bytes that are no text."""
    key = bytes(range(256)) + b"\r\n\x00"
    (task,) = task_of(ROLES / "slurm_compute", {"tasks/configuration_node.yml": "Install the cluster's munge key"})
    copy = task["ansible.builtin.copy"]
    out = tmp_path / "munge.key"
    written = {"ansible.builtin.copy": {"content": copy["content"], "dest": str(out), "mode": copy["mode"]}}
    play({"n1": {"slurm_compute_munge_key": base64.b64encode(key).decode()}}, [written])
    assert out.read_bytes() == key
    assert out.stat().st_mode & 0o777 == 0o400
    assert task["no_log"] is True
    assert task["diff"] is False


@pytest.mark.parametrize(
    ("source", "driver", "monitoring"),
    [
        ("debian", [], [("nvidia-driver", "absent"), ("site-cuda", "present")]),
        ("nvidia", [("nvidia-driver", "present"), ("site-cuda", "absent")], []),
    ],
)
def test_apt_never_has_two_entries_of_nvidias_repository(
    play: Play, tmp_path: Path, source: str, driver: list[Any], monitoring: list[Any]
) -> None:
    """With keys in different files apt would refuse to do anything; and one of them pins all but DCGM away."""
    variables: dict[str, Any] = {}
    tasks: list[dict[str, Any]] = []
    for role in ("nvidia_gpu_drivers", "monitoring_stack"):
        variables |= yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())
        tasks.append({"ansible.builtin.include_vars": {"dir": str(ROLES / role / "vars/main")}})
    variables |= {"nvidia_gpu_drivers_source": source, "nvidia_gpu_drivers_container_toolkit": False}
    variables["monitoring_stack_dcgm_repository"]["name"] = "site-cuda"
    both = "[__nvidia_gpu_drivers_repositories, __monitoring_stack_dcgm_repositories]"
    out = tmp_path / "repositories.json"
    copy = {"content": f"{{{{ {both} | to_json }}}}", "dest": str(out), "mode": "0644"}
    output = play({"n1": variables}, [*tasks, {"ansible.builtin.copy": copy}])
    assert out.exists(), output
    found = [[(one["name"], one.get("state", "present")) for one in many] for many in json.loads(out.read_text())]
    assert found == [driver, monitoring]
