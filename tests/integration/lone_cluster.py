# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that is a whole Slurm cluster: controller, slurmd, emulated GPUs; and the questions that the tests ask it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device
from rig.node import Node
from rig.process import Completed, RigError, wait_for

REPO = Path(__file__).resolve().parents[2]
_PACKAGES = "slurmd slurm-client slurm-wlm-nvml-plugin munge python3-yaml"
_ENGINE = Path("opt/engine/ansible_collections/hpc/compute/plugins/module_utils")
#: Sixteen cores in two sockets, whatever the host has, so that jobs run beside each other and near different sockets.
HARDWARE = "CPUs=16 Boards=1 SocketsPerBoard=2 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000"
_SLURM_CONF = """\
ClusterName=lone
SlurmctldHost={host}
SlurmUser=slurm
AuthType=auth/munge
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
ReturnToService=2
GresTypes={types}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
JobAcctGatherType=jobacct_gather/linux
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
TaskProlog=/opt/task_prolog
NodeName={host} {hardware} Gres={gres}
PartitionName=main Nodes=ALL Default=YES State=UP
"""
#: Where the device controller of cgroup v1 is mounted in the node, for limits that are real.
_CGROUPS = "/run/cgroup-v1"


@dataclass(frozen=True)
class Task:
    """What a task of a job saw: its number, its variable, and the device files that it could open."""

    number: int
    visible: tuple[str, ...]
    files: frozenset[str]


class LoneCluster:
    """See :class:`rig.node.Node`."""

    def __init__(self, name: str, ip: str) -> None:
        self.node = Node(name, ip, image="controller")

    def up(self) -> None:
        self.node.up(gpus="t4")
        root = self.node.root
        shutil.copytree(
            REPO / "plugins/module_utils",
            root / _ENGINE,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
        for script in ("tests/integration/predict.py", "tests/integration/probe.py"):
            shutil.copy(REPO / script, root / "opt")
        shutil.copy(REPO / "roles/slurm_compute/files/libexec/task-prolog", root / "opt/task_prolog")
        sources = root / "etc/apt/sources.list.d/debian.sources"
        sources.write_text(sources.read_text().replace("Components: main\n", "Components: main contrib\n"))
        # Nothing starts before it is configured.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        self.run(
            "apt-get -qq update; export DEBIAN_FRONTEND=noninteractive;"
            f"apt-get -qq -y --no-install-recommends install {_PACKAGES};"
            "rm /usr/sbin/policy-rc.d;"
            # unpacked only: its dependency is NVIDIA's library, in whose place the emulated one is
            "cd /tmp; apt-get -qq download python3-pynvml; dpkg -x python3-pynvml_*.deb /;"
            "install -d -o slurm -g slurm /var/lib/slurm/slurmctld /var/log/slurm; install -d /var/spool/slurmd;"
            "useradd --create-home user; systemctl start munge"
        )
        self.node.keep_packages()

    def down(self) -> None:
        if self.node.is_up():
            self.limit_devices(False)
        self.node.down()

    def run(self, script: str, check: bool = True) -> str:
        done = self.node.run(["sh", "-ec", script], check=check)
        return done.stdout + done.stderr

    def use_gpus(self, gpus: str) -> None:
        """Other boards, as after a visit with the machine off."""
        self.run("systemctl stop slurmd slurmctld emulated-gpu; rm -f /var/lib/emulated-gpu/state.json")
        path = self.node.root / "etc/emulated-gpu.conf"
        path.write_text(re.sub(r"(?m)^EMULATED_GPUS=.*", f"EMULATED_GPUS={gpus}", path.read_text()))
        self.run("systemctl reset-failed emulated-gpu; systemctl start emulated-gpu")

    def devices(self) -> list[Device]:
        """The devices that the engine sees there."""
        answer = json.loads(self.run("PYTHONPATH=/opt/engine python3 /opt/predict.py 2>/dev/null"))
        return [
            Device(**{**one, "files": tuple(one["files"]), "links": tuple(one["links"])}) for one in answer["devices"]
        ]

    def engine(self, *words: str) -> Completed:
        """The command gpu-layout there."""
        package = "ansible_collections.hpc.compute.plugins.module_utils.command.main"
        code = f"import sys; from {package} import main; sys.exit(main())"
        return self.node.run(["env", "PYTHONPATH=/opt/engine", "python3", "-c", code, *words], check=False)

    def write(self, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            # Through the node: /run is a file system of its own there.
            target = shlex.quote(f"/{path.lstrip('/')}")
            self.node.run(["sh", "-ec", f"mkdir -p $(dirname {target}); cat > {target}"], stdin=text)

    def configure(self, gres: str, gres_conf: str | None = None, types: str = "gpu", hardware: str = HARDWARE) -> None:
        """Write slurm.conf, gres.conf unless it is there, and start it all; wait until the node has registered."""
        limited = (self.node.root / "etc/slurm/cgroup.conf").exists() and "ConstrainDevices" in (
            self.node.root / "etc/slurm/cgroup.conf"
        ).read_text()
        conf = _SLURM_CONF.format(
            host=self.node.name,
            types=types,
            gres=gres,
            hardware=hardware,
            task_plugin="task/cgroup,task/affinity" if limited else "task/affinity",
        )
        self.write({"/etc/slurm/slurm.conf": conf})
        if gres_conf is not None:
            self.write({"/etc/slurm/gres.conf": gres_conf})
        if not limited:
            self.write({"/etc/slurm/cgroup.conf": "CgroupPlugin=disabled\n"})
        self.restart()

    def restart(self) -> None:
        self.run(
            "systemctl stop slurmd slurmctld; rm -rf /var/lib/slurm/slurmctld/* /var/spool/slurmd/* /var/log/slurm/*;"
            "systemctl reset-failed slurmd slurmctld; systemctl start slurmctld slurmd"
        )
        wait_for("the node to register", lambda: self.state() != "unk", seconds=30)

    def state(self) -> str:
        """The node's short state without marks; ``unk`` until it has registered."""
        found = self.run(f"timeout 5 sinfo -h -n {self.node.name} -o %t", check=False).strip()
        return "unk" if "unk" in found or found.endswith("*") or not re.fullmatch(r"[a-z]+", found) else found

    def reason(self) -> str:
        return self.run(f"sinfo -h -n {self.node.name} -o %E").strip()

    def limit_devices(self, limited: bool) -> bool:
        """Have Slurm limit jobs to their devices, by cgroup v1; false where the host has no controller for it."""
        conf = self.node.root / "etc/slurm/cgroup.conf"
        self.run("systemctl stop slurmd", check=False)
        if not limited:
            conf.unlink(missing_ok=True)
            self.run(
                f"for one in devices freezer; do if mountpoint -q {_CGROUPS}/$one; then "
                f"find {_CGROUPS}/$one/slurm_{self.node.name} -depth -type d -exec rmdir {{}} + || true;"
                f"umount {_CGROUPS}/$one; fi; done",
                check=False,
            )
            return True
        self.run(
            f"cd /run; for one in devices freezer; do mkdir -p {_CGROUPS}/$one;"
            f"mount -t cgroup -o $one $one {_CGROUPS}/$one; done",
            check=False,
        )
        if self.node.run(["mountpoint", "-q", f"{_CGROUPS}/devices"], check=False).returncode != 0:
            return False
        conf.parent.mkdir(parents=True, exist_ok=True)
        conf.write_text(f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={_CGROUPS}\nConstrainDevices=yes\n")
        return True

    def job(self, *options: str) -> list[Task]:
        """Run a job as an ordinary user with ``srun``; what its tasks saw, by their numbers."""
        words = ["runuser", "-u", "user", "--", "srun", "--chdir=/", *options, "/opt/probe.py"]
        done = self.node.run(["timeout", "60", *words], check=False)
        if done.returncode != 0:
            raise RigError(f"{shlex.join(words)} failed: {done.stdout}{done.stderr}")
        return tasks_of(done.stdout)

    def allocated(self, script: str, *options: str) -> str:
        """Run a shell script inside an allocation of an ordinary user; its output."""
        words = ["runuser", "-u", "user", "--", "salloc", "--quiet", "--chdir=/", *options, "sh", "-ec", script]
        return self.node.run(["timeout", "60", *words]).stdout

    def batch(self, script: str, *options: str) -> str:
        """Run a batch job as an ordinary user; its output."""
        self.write({"/home/user/job.sh": script})
        words = shlex.join(["sbatch", "--wait", "--output=out", *options, "job.sh"])
        self.run(f"cd /home/user; rm -f out; timeout 90 runuser -u user -- {words} >&2 || {{ cat out; exit 1; }}")
        return (self.node.root / "home/user/out").read_text()

    def slurmd_gres(self) -> list[tuple[str, str]]:
        """Type and files of each device in slurmd's own order, from the lines that it ends ``slurmd -G`` with."""
        text = self.run("slurmd -G 2>&1")
        return re.findall(r"Gres Name=gpu Type=(\S+) .*?File=(\S+)", text)


def tasks_of(output: str) -> list[Task]:
    """The tasks in what :mod:`.probe` printed for each; other lines are a mistake."""
    found: list[Task] = []
    for line in output.splitlines():
        data: dict[str, Any] = json.loads(line)
        found.append(Task(data["task"], tuple(filter(None, data["visible"].split(","))), frozenset(data["files"])))
    return sorted(found, key=lambda one: one.number)


def uuid_of(devices: Sequence[Device], files: frozenset[str]) -> tuple[str, ...]:
    """UUIDs of the devices all of whose files are among *files*."""
    return tuple(sorted(one.uuid or "" for one in devices if files.issuperset(one.files)))
