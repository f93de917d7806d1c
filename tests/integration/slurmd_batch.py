# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside a node: real slurmd for many machines and configurations at once. Standard library only.

Reads a JSON list of ``{"gres": ..., "fake_gpus": text or null}`` from standard input, writes a JSON list of
``{"rc": ..., "output": text}``. Without *fake_gpus* slurmd detects what the node has. One call for all: a login for
each would take longer than slurmd does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_SLURM_CONF = """\
ClusterName=match
SlurmctldHost=localhost
AuthType=auth/munge
SlurmdSpoolDir={folder}
GresTypes=gpu
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
NodeName=match NodeHostname=localhost {hardware}{gres}
"""


def _hardware() -> str:
    """Sockets, cores and so on for the node's line: slurmd counts the cores near a GPU within what stands there."""
    done = subprocess.run(["/usr/sbin/slurmd", "-C"], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()[0].split()
    return " ".join(word for word in words if not word.startswith(("NodeName=", "Gres=")))


def main() -> None:
    results = []
    hardware = _hardware()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (folder / "gres.conf").write_text("AutoDetect=nvml\n")
        for case in json.load(sys.stdin):
            gres = f" Gres={case['gres']}" if case["gres"] else ""
            (folder / "slurm.conf").write_text(_SLURM_CONF.format(folder=folder, hardware=hardware, gres=gres))
            fake = folder / "fake_gpus.conf"  # slurmd takes it for the hardware, if it is there
            fake.unlink(missing_ok=True)
            if case["fake_gpus"] is not None:
                fake.write_text(case["fake_gpus"])
            done = subprocess.run(
                ["/usr/sbin/slurmd", "-G", "-v", "-N", "match", "-f", str(folder / "slurm.conf")],
                capture_output=True,
                text=True,
                timeout=30,
            )
            results.append({"rc": done.returncode, "output": done.stdout + done.stderr})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
