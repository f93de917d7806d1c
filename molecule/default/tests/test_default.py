# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian machine became a Slurm GPU node: it registers, offers its devices, and jobs get the ones they asked for."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host  # type: ignore[import-untyped]

testinfra_hosts = ["ansible://compute"]

BOARD = "nvidia_h100_80gb_hbm3"
#: What the machine of molecule.yml has to offer: a whole board and one in slices.
OFFERED = {BOARD: 1, f"{BOARD}_1g.10gb": 2, f"{BOARD}_2g.20gb": 1, f"{BOARD}_3g.40gb": 1}
SLICES = [kind for kind in OFFERED if kind != BOARD]


@pytest.fixture(scope="module")
def inventory(host: Host) -> dict[str, Any]:
    """The node's GPUs, as the collection's own module tells them."""
    result: dict[str, Any] = host.ansible("hpc.compute.gpu_info", check=False, become=True)["inventory"]
    assert result["problems"] == []
    return result


@pytest.fixture(scope="module", autouse=True)
def idle(host: Host) -> None:
    """Registration takes a moment; every test needs it."""
    deadline = time.monotonic() + 30
    while (state := host.check_output("sinfo --noheader --format=%T")) != "idle":
        assert time.monotonic() < deadline, f"expected the node to be idle, found {state!r}"
        time.sleep(0.5)


def job(host: Host, options: str, script: str) -> list[str]:
    """Run *script* as a job of an ordinary user and return its lines."""
    output: str = host.check_output(
        f"runuser --user debian -- srun --chdir=/tmp --mem=32M {options} sh -c {shlex.quote(script)}"
    )
    return output.splitlines()


def instances(inventory: dict[str, Any], kind: str) -> dict[str, list[str]]:
    """UUID -> device files of the MIG devices of Slurm's type *kind*."""
    profile = kind.removeprefix(f"{BOARD}_")
    return {
        part["uuid"]: part["device_files"]
        for gpu in inventory["gpus"]
        for instance in gpu["gpu_instances"]
        if instance["profile"] == profile
        for part in instance["compute_instances"]
    }


def test_it_registers_everything_it_has(host: Host) -> None:
    node = host.check_output("scontrol --oneliner show node")
    gres = re.search(r" Gres=(\S+)", node)
    assert gres, node
    registered = {kind: int(count) for kind, count in re.findall(r"gpu:([^:(,]+):(\d+)", gres[1])}
    assert registered == OFFERED
    assert "State=IDLE " in node
    assert " Reason=" not in node


@pytest.mark.parametrize("kind", SLICES)
def test_a_job_gets_a_slice_of_the_type_it_asked_for(host: Host, inventory: dict[str, Any], kind: str) -> None:
    (given,) = job(host, f"--gres=gpu:{kind}:1", 'echo "$CUDA_VISIBLE_DEVICES"')
    known = instances(inventory, kind)
    assert len(known) == OFFERED[kind]
    assert given in known
    assert len(known[given]) == 3
    kinds = host.check_output(f"stat --format=%F {' '.join(known[given])}").splitlines()
    assert kinds == ["character special file"] * 3


def test_a_job_gets_as_many_slices_as_it_asked_for(host: Host, inventory: dict[str, Any]) -> None:
    kind = f"{BOARD}_1g.10gb"
    (given,) = job(host, f"--gres=gpu:{kind}:2", 'echo "$CUDA_VISIBLE_DEVICES"')
    assert set(given.split(",")) == set(instances(inventory, kind))


def test_a_job_gets_a_whole_gpu(host: Host, inventory: dict[str, Any]) -> None:
    (given,) = job(host, f"--gres=gpu:{BOARD}:1", 'echo "$CUDA_VISIBLE_DEVICES"')
    (whole,) = [gpu for gpu in inventory["gpus"] if not gpu["mig"]["current"]]
    assert given == str(whole["minor"])
    assert whole["device_files"] == [f"/dev/nvidia{whole['minor']}"]


def test_a_job_without_gpus_sees_none(host: Host) -> None:
    assert job(host, "", 'echo "${CUDA_VISIBLE_DEVICES-none}"') == ["none"]


def test_munge_key_is_for_munge_only(host: Host) -> None:
    key = host.file("/etc/munge/munge.key")
    assert (key.user, key.group, key.mode) == ("munge", "munge", 0o400)


@pytest.mark.parametrize("name", ["munge", "slurmd"])
def test_services_run_now_and_after_a_boot(host: Host, name: str) -> None:
    service = host.service(name)
    assert service.is_running
    assert service.is_enabled


def test_slurmd_writes_its_log(host: Host) -> None:
    lines = host.file("/var/log/slurm/slurmd.log").content_string.splitlines()
    assert any("slurmd started" in line for line in lines)
    # the controller comes after the node here, for which slurmd waits
    assert [line for line in lines if "error" in line and "Unable to register" not in line] == []


def test_open_mpi_starts_through_pmix(host: Host) -> None:
    program = "from mpi4py.MPI import COMM_WORLD as world; print(world.Get_rank(), world.Get_size())"
    lines = job(host, "--mpi=pmix --ntasks=2 --overcommit", f"/usr/bin/python3 -c {shlex.quote(program)}")
    assert sorted(lines) == ["0 2", "1 2"]


def test_a_type_that_slurm_would_not_find_is_refused_before_anything_changes(host: Host) -> None:
    look = "sha256sum /etc/slurm/*; systemctl show --property=ActiveState,ExecMainStartTimestamp slurmd.service"
    before = host.check_output(look)
    playbook = subprocess.run(
        [
            *("ansible-playbook", "--inventory", Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent),
            *("-e", "hpc_hosts=compute", "-e", f"slurm_compute_gres=gpu:{BOARD}_mig_1g.10gb:1", "hpc.compute.node"),
        ],
        env={
            **os.environ,
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    said = playbook.stdout + playbook.stderr
    assert playbook.returncode == 2, said
    assert f"{BOARD}_mig_1g.10gb" in said
    assert f"{BOARD}_1g.10gb" in said, "the message does not say which types there are"
    assert host.check_output(look) == before
