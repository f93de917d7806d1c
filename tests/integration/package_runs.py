# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What apt did on a node, and a run of a playbook that is killed while dpkg is at work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rig.node import Node
from rig.process import wait_for

#: dpkg tells it what it does; at the chosen moment it stops dpkg, which stays so until it is killed.
_LOGGER = """\
#!/bin/sh
while read -r line; do
    case "$line" in
        "status: {package}:"*" {state}"* | "status: {package}: {state}"*)
            for process in /proc/[0-9]*; do
                case "$(cat "$process/comm" 2>/dev/null)" in dpkg) kill -STOP "${{process#/proc/}}" ;; esac
            done
            echo "$line" >/var/cache/stopped
            ;;
    esac
done
"""
_KILL = """\
left=some
while [ -n "$left" ]; do
    left=
    for process in /proc/[0-9]*; do
        case "$(cat "$process/comm" 2>/dev/null)" in
            dpkg | dpkg-deb | apt-get) kill -KILL "${process#/proc/}"; left=some ;;
        esac
    done
done
"""


def transactions(node: Node) -> list[str]:
    """What each transaction of apt changed on *node* so far, as apt's history tells it."""
    history = node.root / "var/log/apt/history.log"
    text = history.read_text() if history.exists() else ""
    return [part.strip() for part in re.findall(r"(?s)Start-Date: [^\n]*\n(.*?)End-Date:", text)]


def kill_during_installation(
    node: Node, command: Sequence[str | Path], environment: Mapping[str, str], package: str, state: str
) -> None:
    """Start *command* and, at *package* being *state*, kill it, apt and dpkg, as a loss of power does."""
    stopped, logger = node.root / "var/cache/stopped", node.root / "usr/local/sbin/stop-dpkg"
    hook = node.root / "etc/dpkg/dpkg.cfg.d/stop-dpkg"
    logger.write_text(_LOGGER.format(package=package, state=state))
    logger.chmod(0o755)
    hook.write_text("status-logger=/usr/local/sbin/stop-dpkg\n")
    with subprocess.Popen(
        [str(word) for word in command],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as started:
        try:
            wait_for(f"dpkg to have {package} {state} on {node.name}", stopped.exists, 120)
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            node.run(["timeout", "30", "sh", "-c", _KILL])
            for path in (hook, logger, stopped):
                path.unlink(missing_ok=True)
