# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Static mode in a real cluster: every task gets the UUIDs of the devices it may open, whatever they are called."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.binding import Binding
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import compare, parse_gres_report
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import CpuTopology
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import format_gres, parse_gres
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode
from ansible_collections.hpc.compute.plugins.module_utils.slurm.sharing import share
from ansible_collections.hpc.compute.plugins.module_utils.slurm.static import (
    UUID_MAP,
    check_static,
    static_conf,
    static_entries,
    uuid_map,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored
from integration.lone_cluster import LoneCluster, uuid_of

_TYPES = {"nvidia_a100*_1g.5gb": "a100-1g.5gb", "nvidia_a100*_2g.10gb": "a100-2g.10gb", "*+me": "media"}
_TOPOLOGY = CpuTopology({cpu: cpu for cpu in range(16)}, cores_per_socket=8)
# The cut boards come first, and minors are not indices: where numbers for devices go wrong.
_GPUS = "2xa100-40=1g.5gb*2:2g.10gb:1g.5gb+me,2xh100-80"
_SHAPES = (
    ("--gres=gpu:1",),
    ("--gres=gpu:a100-1g.5gb:1",),
    ("--gres=gpu:a100-1g.5gb:3",),
    ("--gres=gpu:a100-2g.10gb:1,gpu:nvidia_h100_80gb_hbm3:1",),
    ("--gpus=nvidia_h100_80gb_hbm3:2",),
    ("--gres=gpu:10",),
    ("-n3", "--gpus-per-task=a100-1g.5gb:1"),
    ("-n2", "--gres=gpu:a100-1g.5gb:3", "--gpu-bind=map:1,2"),
    ("-n2", "--gres=gpu:media:2", "--gpu-bind=single:1"),
)


def _configure(cluster: LoneCluster, gres: str | None = None) -> tuple[list[Device], tuple[Binding, ...]]:
    """Static mode for what is there; the devices and their bindings."""
    devices = [replace(one, cores=None) for one in cluster.devices()]
    entries = static_entries(devices, _TYPES) if gres is None else parse_gres(gres)
    verdict = check_static(entries, devices, _TYPES)
    assert verdict.outcome is not None
    assert not verdict.refusals
    bindings = verdict.outcome.bindings
    cluster.write({UUID_MAP: uuid_map(bindings)})
    cluster.configure(format_gres(entries), static_conf(bindings))
    assert cluster.state() == "idle", cluster.reason()
    return devices, bindings


def test_places_are_slurmds_own(cluster: LoneCluster) -> None:
    cluster.use_gpus(_GPUS)
    order = "gpu:nvidia_h100_80gb_hbm3:2,gpu:media:2,gpu:a100-1g.5gb:4,gpu:a100-2g.10gb:2"
    for gres in (None, order):
        _, bindings = _configure(cluster, gres)
        assert cluster.slurmd_gres() == [(one.label, one.device.file) for one in bindings]
        assert compare(bindings, parse_gres_report(cluster.run("slurmd -G -v 2>&1")), static=True) == []
    swapped = [bindings[1], bindings[0], *bindings[2:]]
    (difference,) = compare(swapped, parse_gres_report(cluster.run("slurmd -G -v 2>&1")), static=True)
    assert "in the order" in difference


def test_uuids_where_devices_are_not_limited(cluster: LoneCluster) -> None:
    """Slurm's own word for what a job has is the place of each device."""
    cluster.use_gpus(_GPUS)
    _, bindings = _configure(cluster)
    uuids = [one.device.uuid for one in bindings]
    script = "scontrol show job --details $SLURM_JOB_ID | grep ' GRES='; srun /opt/probe.py"
    for shape in _SHAPES[:6]:
        said = cluster.allocated(script, *shape)
        places: list[int] = []
        for part in re.findall(r"IDX:([0-9,-]+)\)", said):
            for run in part.split(","):
                first, _, last = run.partition("-")
                places += range(int(first), int(last or first) + 1)
        assert places, said
        visible = re.findall(r'visible": "([^"]*)"', said)
        assert [sorted(one.split(",")) for one in visible] == [sorted(str(uuids[place]) for place in places)], said
    tasks = cluster.job("-n3", "--gpus-per-task=a100-1g.5gb:1")
    assert len({task.visible for task in tasks}) == 3, "each task has a device of its own"
    assert {one for task in tasks for one in task.visible} <= set(uuids)
    (task,) = cluster.job()
    assert task.visible == (), "a job without GPUs"


def test_uuids_where_devices_are_limited(cluster: LoneCluster) -> None:
    """The device files that a task can open say which devices it has."""
    if not cluster.limit_devices(True):
        pytest.skip("the host has no device controller of cgroup v1 to give to the node")
    try:
        cluster.use_gpus(_GPUS)
        devices, _ = _configure(cluster)
        for shape in _SHAPES:
            for task in cluster.job(*shape):
                assert task.visible, shape
                assert tuple(sorted(task.visible)) == uuid_of(devices, task.files), (shape, task)
        (task,) = cluster.job()
        assert (task.visible, uuid_of(devices, task.files)) == ((), ())
    finally:
        cluster.limit_devices(False)


def test_a_boot_makes_files_and_map_anew(cluster: LoneCluster) -> None:
    cluster.use_gpus("h100-80=1g.10gb*2,h100-80")
    mode = GresMode("off", {"*_1g.10gb": "small"})
    gres = "gpu:small:2,gpu:nvidia_h100_80gb_hbm3:1"
    layout = (
        "version: v1\nmig-configs:\n  c:\n    - {devices: [0], mig-enabled: true, mig-devices: {1g.10gb: 2}}\n"
        "    - {devices: [1], mig-enabled: false}\n"
    )
    cluster.write(
        {
            str(STORED): Stored(mode).text(),
            "/etc/hpc-compute/gpu-layout.yml": layout,
            "/etc/slurm/slurm.conf": f"NodeName={cluster.node.name} Gres={gres}\n",
        }
    )
    assert (done := cluster.engine("boot")).returncode == 0, done.stderr
    cluster.configure(gres)
    (before,) = cluster.job("--gres=gpu:small:1")
    # The GPUs lose power: Hopper boards come back whole.
    cluster.run("systemctl stop slurmd slurmctld; systemctl restart emulated-gpu")
    assert [one.kind for one in cluster.devices()] == ["gpu", "gpu"]
    assert (done := cluster.engine("boot")).returncode == 0, done.stderr
    cluster.restart()
    (after,) = cluster.job("--gres=gpu:small:1")
    assert after.visible != before.visible
    assert after.visible[0] in {one.uuid for one in cluster.devices() if one.kind == "mig"}
    (whole,) = cluster.job("--gres=gpu:nvidia_h100_80gb_hbm3:1")
    assert whole.visible == tuple(one.uuid for one in cluster.devices() if one.kind == "gpu")
    assert "gpu:small:2" in cluster.engine("gres").stdout


def test_cores_are_whole_sockets(cluster: LoneCluster) -> None:
    cluster.use_gpus("2xl40s")
    first, second = cluster.devices()
    pair = [Binding("l40s", replace(first, cores="2-3")), Binding("l40s", replace(second, cores="12"))]
    text = static_conf(pair, topology=_TOPOLOGY)
    assert "Cores=0-7 " in text
    assert "Cores=8-15 " in text
    cluster.configure("gpu:l40s:2", text)
    assert cluster.state() == "idle", cluster.reason()
    cluster.configure("gpu:l40s:2", text.replace("Cores=0-7", "Cores=2-3"))
    assert cluster.state() == "inval"
    assert "doesn't match socket boundaries" in cluster.reason()


def test_links_choose_the_linked_pair(cluster: LoneCluster) -> None:
    cluster.use_gpus("l40s,4xh100-80")
    devices = cluster.devices()
    links = {1: (0, -1, 0, 0, 9), 2: (0, 0, -1, 9, 0), 3: (0, 0, 9, -1, 0), 4: (0, 9, 0, 0, -1)}
    linked = [replace(one, links=links.get(place, one.links)) for place, one in enumerate(devices)]
    bindings = [Binding("h100", one) for one in linked[1:]] + [Binding("l40s", linked[0])]
    cluster.write({UUID_MAP: uuid_map(bindings)})
    cluster.configure("gpu:h100:4,gpu:l40s:1", static_conf(bindings))
    assert cluster.state() == "idle", cluster.reason()
    (task,) = cluster.job("--gpus=h100:2")
    assert set(task.visible) == {devices[1].uuid, devices[4].uuid}


def test_shards_give_their_gpu(cluster: LoneCluster) -> None:
    cluster.use_gpus("l40s,t4")
    devices = cluster.devices()
    bindings = [Binding("t4", devices[1]), Binding("l40s", devices[0])]
    sharing = share(bindings, {"shard": {"l40s": 4}})
    cluster.write({UUID_MAP: uuid_map(bindings)})
    gres = f"gpu:t4:1,gpu:l40s:1,{format_gres(sharing.entries)}"
    cluster.configure(gres, static_conf(bindings, sharing.lines), types="gpu,shard")
    assert cluster.state() == "idle", cluster.reason()
    assert "shard:l40s:4" in cluster.run("scontrol show node")
    (task,) = cluster.job("--gres=shard:1")
    assert task.visible == (devices[0].uuid,)


def test_a_node_includes_its_own_file_in_the_controllers(cluster: LoneCluster) -> None:
    """How static mode and configless go together."""
    cluster.use_gpus("h100-80=1g.10gb*2")
    _, bindings = _configure(cluster)
    gres = cluster.run("grep -o 'Gres=.*' /etc/slurm/slurm.conf").strip().removeprefix("Gres=")
    cluster.run(
        "systemctl stop slurmd slurmctld; mkdir -p /etc/slurm-controller; mv /etc/slurm/*.conf /etc/slurm-controller;"
        "mkdir -p /run/systemd/system/slurmctld.service.d;"
        "printf '[Unit]\\nConditionPathExists=\\n[Service]\\nExecStart=\\n"
        "ExecStart=/usr/sbin/slurmctld --systemd -f /etc/slurm-controller/slurm.conf\\n'"
        " > /run/systemd/system/slurmctld.service.d/test.conf;"
        f"echo 'SLURMD_OPTIONS=\"--conf-server {cluster.node.name}:6817\"' > /etc/default/slurmd;"
        "systemctl daemon-reload;"
        "echo SlurmctldParameters=enable_configless >> /etc/slurm-controller/slurm.conf"
    )
    try:
        cluster.write(
            {
                "/etc/hpc-compute/gres.conf": static_conf(bindings),
                "/etc/slurm-controller/gres.conf": "Include /etc/hpc-compute/gres.conf\n",
            }
        )
        cluster.restart()
        assert cluster.state() == "idle", cluster.reason()
        assert "Include /etc/hpc-compute/gres.conf" in cluster.run("cat /run/slurm/conf/gres.conf")
        assert f"Gres={gres}" in cluster.run("scontrol show node")
        (task,) = cluster.job("--gres=gpu:1")
        assert task.visible[0] in {one.device.uuid for one in bindings}
    finally:
        cluster.run(
            "systemctl stop slurmd slurmctld; rm -r /run/systemd/system/slurmctld.service.d /etc/default/slurmd;"
            "rm -rf /run/slurm/conf /var/spool/slurmd/conf-cache; systemctl daemon-reload"
        )
