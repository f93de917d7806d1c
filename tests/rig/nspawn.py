# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and kill containers, on a machine with systemd and on one without.

A node is everything in one control group of its own: that is how it is found again and killed, also after the command
that started it was itself killed.

* With systemd: a transient service with a delegated control group; systemd keeps it.
* Without: control groups made here. They are made in every hierarchy that systemd-nspawn looks at: the unified one, and
  on a hybrid machine also the named one of systemd. Without its own group each container would land in the same
  ``/payload`` and take the others with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .network import BRIDGE
from .process import RigError, run, wait_for

_ENVIRONMENT = {
    # the node's Debian 13 knows no other kind of control groups
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    # a forwarded host lock would stay behind when a node is killed
    "SYSTEMD_NSPAWN_LOCK": "0",
}
#: Where a node has what it shares with others.
SHARED = Path("/srv/shared")
_QUIET = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=off")


def boot(name: str, root: Path, console: Path, share: Path | None = None) -> None:
    """Boot the system in *root* as machine *name*, attached to the bridge; returns at once.

    :param share: a folder of this machine that is to be the node's :data:`SHARED`.
    """
    command = [*_QUIET, f"--directory={root}", f"--machine={name}", f"--network-bridge={BRIDGE}", "--boot"]
    command.append("--console=read-only")
    command += [f"--bind={share}:{SHARED}"] if share else []
    if _has_systemd():
        run(
            [
                *("systemd-run", "--quiet", "--collect", f"--unit={_unit(name)}"),
                *("--property=Delegate=yes", "--property=KillMode=mixed", "--property=TasksMax=infinity"),
                f"--property=StandardOutput=file:{console}",
                f"--property=StandardError=file:{console}",
                *(f"--setenv={key}={value}" for key, value in _ENVIRONMENT.items()),
                *command,
            ]
        )
        return
    groups = _groups(name)
    if not groups:
        raise RigError(
            "expected a control group file system (mount -t cgroup2), which systemd-nspawn needs; found none"
        )
    for group in groups:
        group.mkdir(exist_ok=True)
    enter = 'for group in $GROUPS_TO_ENTER; do echo $$ > $group/cgroup.procs || exit 1; done; exec "$@"'
    with console.open("w") as sink:
        started = subprocess.Popen(
            ["sh", "-c", enter, "enter", *command],
            env={**os.environ, **_ENVIRONMENT, "GROUPS_TO_ENTER": " ".join(map(str, groups))},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    # from here on it is found by its control group
    wait_for(f"node {name} to enter its control group", lambda: is_up(name) or started.poll() is not None, seconds=10)


def is_up(name: str) -> bool:
    """Whether anything of machine *name* runs."""
    if _has_systemd():
        return run(["systemctl", "--quiet", "is-active", _unit(name)], check=False).returncode == 0
    return bool(_processes(name))


def kill(name: str) -> None:
    """End machine *name* at once and remove its control groups; does nothing when there is none.

    Its file system is thrown away next, so that nothing is lost by not shutting down.
    """
    if _has_systemd():
        run(["systemctl", "--quiet", "kill", "--signal=KILL", _unit(name)], check=False)  # fails when not running
        run(["systemctl", "--quiet", "stop", _unit(name)], check=False)
        run(["systemctl", "--quiet", "reset-failed", _unit(name)], check=False)
    else:
        wait_for(f"the processes of node {name} to end", lambda: _ended(name), seconds=20, every=0.05)
    for folder in ("propagate", "unix-export"):
        left = Path("/run/systemd/nspawn", folder, name)
        if left.exists():
            run(["umount", left], check=False)  # it is a mount point in some versions
            run(["rm", "-r", "--one-file-system", left])


def in_root(root: Path, command: Sequence[str], log: Path) -> None:
    """Run *command* in *root* with this machine's network, without booting it."""
    resolv = Path("/etc/resolv.conf").resolve()
    launcher = ["systemd-run", "--quiet", "--scope", "--property=Delegate=yes"] if _has_systemd() else []
    keep = ("DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
    run(
        [
            *launcher,
            *_QUIET,
            f"--directory={root}",
            "--pipe",
            f"--bind-ro={resolv}:/etc/resolv.conf",
            *(f"--setenv={setting}" for setting in keep),
            *command,
        ],
        env={**os.environ, **_ENVIRONMENT},
        log=log,
    )


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _unit(name: str) -> str:
    return f"hpc-compute-{name}.service"


def _groups(name: str) -> list[Path]:
    """The control groups of machine *name*, there or not, in the hierarchies that matter."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 ") or (kind.startswith("cgroup ") and "name=systemd" in kind):
            found.append(Path(place.split()[4], f"hpc-compute-{name}"))
    return found


def _ended(name: str) -> bool:
    """Kill what runs of machine *name*; true once nothing does and its control groups are removed."""
    for process in _processes(name):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for group in _groups(name):
        folders = [group, *(path for path in group.rglob("*") if path.is_dir())] if group.exists() else []
        for folder in reversed(folders):
            with suppress(OSError):  # busy: a process is just ending, or just came; asked again
                folder.rmdir()
    return not any(group.exists() for group in _groups(name))


def _processes(name: str) -> set[int]:
    found: set[int] = set()
    for group in _groups(name):
        for listing in group.rglob("cgroup.procs"):
            with suppress(OSError):  # the group went away while we looked
                found.update(int(word) for word in listing.read_text(encoding="ascii").split())
    return found - {0}
