# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only a real kernel can prove: jobs kept to their devices, memory and cores, and what a reboot leaves.

The tests stand on each other, in the order of the file: the last one reboots the node into another kernel. Without
hardware virtualisation each command takes a second and each run of a playbook minutes, so there are few of them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import testinfra  # type: ignore[import-untyped]
from integration.driver_packages import kernel_modules
from testinfra.host import Host  # type: ignore[import-untyped]

testinfra_hosts = ["ansible://vm-node"]

REPO = Path(__file__).resolve().parents[3]
# Of a name with a hyphen Slurm leaves the part after it out of the types of slices.
H100, A100, L40S = "nvidia_h100_80gb_hbm3", "nvidia_a100", "nvidia_l40s"
DAY = {f"{H100}_3g.40gb": 1, f"{H100}_1g.10gb": 2, f"{A100}_2g.10gb": 1, f"{A100}_1g.5gb": 2, L40S: 1}
NIGHT = {f"{H100}_1g.10gb": 4, f"{A100}_2g.10gb": 1, f"{A100}_1g.5gb": 2, L40S: 1}
DEVICES = "cd /opt; python3 -S -c 'import json, job; print(json.dumps(job.devices()))'"
PROBE = "/usr/bin/python3 -S /opt/probe.py"
WATCH = "while :; do scontrol --oneliner show node vm-node >>/run/watch.log; sleep 1; done"


def until(what: str, met: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(1)


def inventory() -> Path:
    return Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent


def play(playbook: str, *words: str, **variables: Any) -> tuple[int, str]:
    """Run a playbook of the collection on the machines: its exit code and what it said."""
    done = subprocess.run(
        ["ansible-playbook", "--inventory", inventory(), playbook, "-e", json.dumps(variables), *words],
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def controller() -> Host:
    return testinfra.get_host(f"ansible://vm-ctl?ansible_inventory={inventory()}", sudo=True)


@pytest.fixture(scope="module", autouse=True)
def programs(host: Host) -> None:
    """Put what jobs run onto the node."""
    for path in ("tests/integration/probe.py", "tests/cluster/job.py"):
        text = shlex.quote((REPO / path).read_text(encoding="utf-8"))
        host.check_output(f"printf %s {text} >/opt/{Path(path).name}")


def srun(host: Host, options: str, command: str, check: bool = True) -> str:
    """What a job prints; as root, so that nothing but the control group can refuse it a file."""
    done = host.run(f"timeout 120 srun --chdir=/tmp --nodelist=vm-node {options} {command}")
    assert not check or done.rc == 0, done.stdout + done.stderr
    return str(done.stdout if check else done.stdout + done.stderr)


def offers(controller: Host) -> dict[str, int]:
    shown = controller.check_output("scontrol --oneliner show node vm-node")
    found = re.search(r" Gres=(\S+)", shown)
    return {kind: int(n) for kind, n in re.findall(r"gpu:([^:(,\s]+):(\d+)", found[1])} if found else {}


def is_idle(controller: Host) -> bool:
    return " State=IDLE " in controller.run("scontrol --oneliner show node vm-node").stdout


def test_both_machines_register_with_what_they_have(host: Host, controller: Host) -> None:
    until("both nodes to be idle", lambda: controller.run("sinfo -h -t idle -o %D").stdout.strip() == "2", 120)
    assert offers(controller) == DAY
    conf = controller.check_output("scontrol show config")
    for setting in ("ProctrackType *= proctrack/cgroup", "TaskPlugin *= task/cgroup,task/affinity"):
        assert re.search(setting, conf), conf
    assert host.check_output("stat --file-system --format=%T /sys/fs/cgroup") == "cgroup2fs"


@pytest.mark.parametrize("kind", [f"{H100}_1g.10gb", f"{A100}_2g.10gb", L40S])
def test_a_job_opens_its_own_device_and_no_other(host: Host, kind: str) -> None:
    devices = json.loads(host.check_output(DEVICES))
    everything = {file for device in devices.values() for file in device["files"]}
    assert len(everything) == 3 + 2 * 6, "three boards, six slices"
    outside = json.loads(host.check_output(PROBE))
    assert set(outside["files"]) >= everything, "nothing but a job's control group refuses"
    inside = json.loads(srun(host, f"--gres=gpu:{kind}:1", PROBE))
    # A whole GPU goes by its number among those that the control group lets the job see.
    visible = inside["visible"] if kind != L40S else next(key for key, one in devices.items() if not one["type"])
    assert kind != L40S or inside["visible"] == "0"
    assert set(inside["files"]) & everything == set(devices[visible]["files"])


def test_a_job_without_gpus_opens_none(host: Host) -> None:
    """But the driver's own two, which root may open: Slurm refuses what gres.conf has."""
    inside = json.loads(srun(host, "", PROBE))
    assert set(inside["files"]) <= {"/dev/nvidia-caps/nvidia-cap1", "/dev/nvidia-caps/nvidia-cap2"}


def test_a_container_of_a_user_is_kept_to_the_jobs_device(host: Host) -> None:
    """Apptainer without setuid, in user namespaces: the device files are all seen, and one slice's can be opened."""
    devices = json.loads(host.check_output(DEVICES))
    host.check_output(
        "mkdir -p /opt/rootfs/bin /opt/rootfs/etc /opt/rootfs/tmp /opt/rootfs/dev /opt/rootfs/proc /opt/rootfs/sys"
        " /opt/rootfs/usr /opt/rootfs/opt /opt/rootfs/var/tmp; cp /bin/busybox /opt/rootfs/bin/sh;"
        " ln -sfn usr/lib /opt/rootfs/lib; ln -sfn usr/lib64 /opt/rootfs/lib64; touch /opt/rootfs/etc/localtime"
    )
    container = f"apptainer exec --nv --bind /usr --bind /opt /opt/rootfs {PROBE}"
    job = f"timeout 120 srun --chdir=/tmp --nodelist=vm-node --gres=gpu:{A100}_1g.5gb:1 {container}"
    said = host.check_output(f"runuser --user vagrant -- {job}")
    inside = json.loads(said.splitlines()[-1])
    assert set(inside["files"]) & {f for one in devices.values() for f in one["files"]} == set(
        devices[inside["visible"]]["files"]
    )


def test_a_job_has_the_memory_and_the_cores_it_asked_for(host: Host) -> None:
    assert srun(host, "--cpus-per-task=1", "nproc").strip() == "1"
    take = "/usr/bin/python3 -S -c 'b = bytearray({} << 20); print(len(b) >> 20)'"
    assert srun(host, "--mem=100", take.format(30)).strip() == "30"
    said = srun(host, "--mem=100", take.format(300), check=False)
    assert "oom" in said.lower().replace("-", ""), said
    assert "300" not in said.splitlines()


def test_nothing_of_a_job_outlives_it(host: Host) -> None:
    srun(host, "", "sh -c 'setsid sleep 4321 >/dev/null 2>&1 </dev/null & sleep 1'")
    until("the job's last process to end", lambda: host.run("pgrep -fx 'sleep 4321'").rc == 1, 30)


def test_ranks_of_open_mpi_over_two_machines(host: Host) -> None:
    program = (
        "from mpi4py.MPI import COMM_WORLD as w; import socket; print(w.Get_rank(), w.Get_size(), socket.gethostname())"
    )
    command = (
        f"timeout 180 srun --chdir=/tmp --mpi=pmix --nodes=2 --ntasks=2 /usr/bin/python3 -c {shlex.quote(program)}"
    )
    lines = host.check_output(f"runuser --user vagrant -- {command}").splitlines()
    assert sorted(line.split()[:2] for line in lines) == [["0", "2"], ["1", "2"]]
    assert {line.split()[2] for line in lines} == {"vm-ctl", "vm-node"}


def test_check_mode_finds_nothing_to_change() -> None:
    code, said = play("hpc.compute.node", "--check", "--diff", hpc_hosts="compute")
    assert code == 0, said
    recap = re.findall(r"(?m)^(vm-\S+) .* changed=(\d+)", said)
    assert dict(recap) == {"vm-ctl": "0", "vm-node": "0"}, said


def test_a_layout_is_changed_when_the_running_job_has_ended(host: Host, controller: Host) -> None:
    job = controller.check_output(
        "sbatch --chdir=/tmp --output=/dev/null --parsable --nodelist=vm-node"
        f" --gres=gpu:{H100}_1g.10gb:1 --wrap 'sleep 60'"
    )
    until("the job to run", lambda: controller.run(f"squeue -h -o %T -j {job}").stdout.strip() == "RUNNING", 60)
    code, said = play(
        "hpc.compute.gpu_layout",
        hpc_hosts="vm-node",
        gpu_layout_change_controllers=["vm-ctl"],
        gpu_layout_selected="night",
    )
    assert code == 0, said
    ended = controller.check_output(f"scontrol --oneliner show job {job}")
    assert " JobState=COMPLETED " in ended, ended
    assert " ExitCode=0:0 " in ended, ended
    until("the node to be idle", lambda: is_idle(controller), 60)
    assert offers(controller) == NIGHT
    assert srun(host, f"--gres=gpu:{H100}_1g.10gb:1", "printenv CUDA_VISIBLE_DEVICES").startswith("MIG-")


def test_a_reboot_into_a_newer_kernel_gives_everything_back(host: Host, controller: Host, tmp_path: Path) -> None:
    """Instances, and Hopper's MIG mode with them, are gone then; no moment shows the controller too few devices."""
    before = {"kernel": host.check_output("uname -r"), "devices": json.loads(host.check_output(DEVICES))}
    package = kernel_modules(tmp_path, "standin-dkms", "1.0-1", module="standin")
    send(host, package, "/root/standin.deb")
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install"
    host.check_output(f"{apt} /root/standin.deb")
    assert host.check_output("modinfo -F version standin") == "1.0"
    host.check_output(f"apt-get -qq update; {apt} linux-image-cloud-amd64 linux-headers-cloud-amd64")
    controller.check_output(f"systemd-run --quiet --unit=watch sh -c {shlex.quote(WATCH)}")

    boot = host.check_output("cat /proc/sys/kernel/random/boot_id")
    host.run("systemctl reboot")
    until("the machine to be back", lambda: is_back(boot), 300)
    until("the node to be idle", lambda: is_idle(controller), 180)
    controller.check_output("systemctl stop watch")

    assert host.check_output("uname -r") != before["kernel"]
    assert host.check_output("modinfo -F version standin") == "1.0", "rebuilt for the kernel that runs"
    assert offers(controller) == NIGHT
    after = json.loads(host.check_output(DEVICES))
    assert sorted(one["type"] for one in after.values()) == sorted(one["type"] for one in before["devices"].values())
    assert srun(host, f"--gres=gpu:{A100}_2g.10gb:1", "printenv CUDA_VISIBLE_DEVICES").strip() in after

    seen = controller.check_output("cat /run/watch.log").splitlines()
    assert len(seen) > 5
    assert not [line for line in seen if "INVAL" in line or "DRAIN" in line]
    order = ["emulated-gpu", "nvidia-persistenced", "gpu-layout", "slurmd"]
    started = starts(host, order)
    assert started == sorted(started), dict(zip(order, started, strict=True))
    layout, dcgm = starts(host, ["gpu-layout", "nvidia-dcgm"])
    assert layout < dcgm
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


def starts(host: Host, units: Sequence[str]) -> list[int]:
    """When units had started, in microseconds after the boot."""
    times = host.check_output(f"systemctl show --value --property=ActiveEnterTimestampMonotonic {' '.join(units)}")
    found = [int(one) for one in times.split()]
    assert len(found) == len(units), times
    assert 0 not in found, times
    return found


def send(host: Host, file: Path, path: str) -> None:
    """Copy a small file."""
    text = base64.b64encode(file.read_bytes()).decode()
    host.check_output(f"echo {text} | base64 -d >{path}")


def is_back(boot: str) -> bool:
    """Whether the machine answers, and is another boot than *boot*."""
    again = testinfra.get_host(f"ansible://vm-node?ansible_inventory={inventory()}", sudo=True)
    try:
        done = again.run("cat /proc/sys/kernel/random/boot_id")
    except RuntimeError:  # ssh's own failure
        return False
    return bool(done.rc == 0 and done.stdout.strip() != boot)
