# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting the daemon: the machine from its specification or its state file, the stage, the socket, who is told."""

from __future__ import annotations

import argparse
import json
import os
import socket
from pathlib import Path
from typing import Any

from .control import Controls
from .machine import Machine, Options
from .server import Server
from .staging import Stage


def serve(options: argparse.Namespace) -> None:
    """Run the daemon until it is told to end.

    :raises ValueError: the specification, an option or the state file is wrong.
    :raises OSError: the socket is taken, or a file can't be staged.
    """
    machine = Machine.build(
        options.gpus,
        Options(
            driver_version=options.driver_version,
            seed=options.seed,
            shuffle_minors=options.shuffle_minors,
            numa=tuple(options.numa),
            kernel_driver=options.kernel_driver,
        ),
        _kept(options.state, options.gpus),
    )
    stage = Stage(machine, options.stage.resolve()) if options.stage is not None else None

    def sync() -> None:
        if options.state is not None:
            _write_state(options.state, machine)
        if stage is not None:
            stage.sync()

    if stage is not None:
        stage.write()
    sync()
    server = Server(machine, options.socket, Controls(machine, stage), sync, options.privileged_uid)
    _notify_systemd()
    if options.parent_fd is not None:
        os.write(options.parent_fd, b"ready\n")
        server.watch(options.parent_fd)
    server.run()


def _kept(path: Path | None, spec: str) -> dict[str, Any] | None:
    """What survived, ``None`` for a new machine, which one with other GPUs is too."""
    if path is None or not path.exists():
        return None
    try:
        kept = json.loads(path.read_text())
        same = kept["spec"] == spec and isinstance(kept["modes"], dict) and int(kept["boots"]) > 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no state of this emulator ({error}): remove it to start a new machine") from error
    return kept if same else None


def _write_state(path: Path, machine: Machine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(machine.kept(), indent=2) + "\n")
    fresh.replace(path)


def _notify_systemd() -> None:
    """Tell systemd (Type=notify) that the driver answers and its files are there."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(b"READY=1")
