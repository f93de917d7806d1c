# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed: versions, kernels with their modules, units. Works on a running node and on a mounted image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..dkms.kernels import installed_kernels
from ..dkms.status import parse_status
from ..slurm.control import Runner
from .model import Row, State

#: What a node is made of, and the packages of which one is it. The first that is installed counts.
COMPONENTS = {
    "kernel": ("linux-image-amd64", "linux-image-cloud-amd64"),
    "Open MPI": ("openmpi-bin",),
    "NVIDIA driver": ("nvidia-driver-cuda", "nvidia-driver-bin", "nvidia-kernel-support", "nvidia-open-kernel-support"),
    "fabric manager": ("nvidia-fabricmanager",),
    "container toolkit": ("nvidia-container-toolkit-base", "nvidia-container-toolkit"),
    "Slurm": ("slurmd", "slurm-smd-slurmd"),
    "munge": ("munge",),
    "Apptainer": ("apptainer",),
    "BeeGFS client": ("beegfs-client-dkms", "beegfs-client"),
    "node exporter": ("prometheus-node-exporter",),
    "DCGM": ("datacenter-gpu-manager-4-core",),
    "DCGM exporter": ("datacenter-gpu-manager-exporter",),
}
#: Units that a node or an image has enabled, if it has them.
UNITS = (
    "munge.service",
    "slurmd.service",
    "gpu-layout.service",
    "hpc-compute-join.service",
    "hpc-compute-join.path",
    "hpc-compute-network.service",
    "nvidia-device-nodes.service",
    "nvidia-after-layout.path",
    "nvidia-persistenced.service",
    "nvidia-fabricmanager.service",
    "prometheus-node-exporter.service",
    "hpc-node-metrics@state.timer",
    "hpc-node-metrics@system.timer",
    "nvidia-dcgm.service",
    "nvidia-dcgm-exporter.service",
)
#: Off where a variable of its role says so (nvidia_gpu_drivers_persistence).
_MAY_BE_OFF = frozenset({"nvidia-persistenced.service"})
#: Nobody masks a unit by accident: the monitoring does where another machine has the host engine.
_MASKED = frozenset({"masked", "masked-runtime"})
_ENABLED = frozenset({"enabled", "enabled-runtime", "static", "alias", "indirect", "generated"})


def versions(root: Path, run: Runner) -> Iterator[Row]:
    """The version of each component."""
    show = "${db:Status-Status}\t${Package}\t${Version}\n"
    done = run(["dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", "--show", "--showformat", show])
    if done.rc:
        yield Row("version", "packages", "unknown", f"dpkg-query: exit code {done.rc}: {done.stderr.strip()}")
        return
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    installed = {name: version for status, name, version in rows if status == "installed"}
    half = sorted(name for status, name, _ in rows if status not in ("installed", "config-files", "not-installed"))
    for component, packages in COMPONENTS.items():
        found = next((name for name in packages if name in installed), None)
        yield Row("version", component, "ok" if found else "absent", f"{found} {installed[found]}" if found else "")
    if half:
        yield Row("version", "packages", "wrong", f"not fully installed: {', '.join(half)}; see dpkg --audit")


def kernels(root: Path, run: Runner) -> Iterator[Row]:
    """Each installed kernel, and whether every module that DKMS knows is built for it."""
    entries = []
    if (root / "usr/sbin/dkms").exists():
        tree = [] if root == Path("/") else ["--dkmstree", str(root / "var/lib/dkms")]
        done = run(["dkms", "status", *tree])
        if done.rc:
            yield Row("kernel", "DKMS", "unknown", f"dkms status: exit code {done.rc}: {done.stderr.strip()}")
        entries = parse_status(done.stdout)
    known = sorted({(entry.name, entry.version) for entry in entries})
    built = {(entry.name, entry.version, entry.kernel) for entry in entries if entry.state == "installed"}
    found = installed_kernels(root)
    for kernel in found:
        missing = [f"{name}/{version}" for name, version in known if (name, version, kernel.release) not in built]
        there = [f"{name}/{version}" for name, version in known if (name, version, kernel.release) in built]
        if missing:
            yield Row("kernel", kernel.release, "wrong", f"not built for it: {', '.join(missing)}")
        else:
            yield Row("kernel", kernel.release, "ok", f"with {', '.join(there)}" if there else "no DKMS modules")
    if not found:
        # a container runs its host's
        yield Row("kernel", "installed", "absent")


def units(root: Path, run: Runner, live: bool, names: Sequence[str] = UNITS) -> Iterator[Row]:
    """Whether the units that are there and meant to run are enabled and, on a *live* node, none has failed."""
    there = [name for name in names if _file(root, name)]
    if there:
        where = [] if root == Path("/") else [f"--root={root}"]
        states = run(["systemctl", *where, "is-enabled", *there]).stdout.splitlines()
        active = run(["systemctl", "is-active", *there]).stdout.splitlines() if live else ["not started"] * len(there)
        if len(states) != len(there) or len(active) != len(there):
            yield Row("unit", "all", "unknown", "systemctl gave no answer for each of them")
        else:
            for name, enabled, running in zip(there, states, active, strict=True):
                yield Row("unit", name, _state(name, enabled, running), f"{enabled}, {running}")
    if live:
        done = run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"])
        failed = [line.split()[0] for line in done.stdout.splitlines() if line.split()]
        for name in failed:
            if name not in there:
                yield Row("unit", name, "wrong", f"failed; see journalctl --unit={name}")


def _state(name: str, enabled: str, running: str) -> State:
    if running == "failed":
        return "wrong"
    if enabled in _MASKED or (enabled == "disabled" and name in _MAY_BE_OFF):
        return "absent"
    return "ok" if enabled in _ENABLED else "wrong"


def _file(root: Path, name: str) -> bool:
    return any((root / folder / name).exists() for folder in ("etc/systemd/system", "usr/lib/systemd/system"))
