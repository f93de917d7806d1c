#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job on a node with emulated GPUs: it proves that it has its device, to itself, from its first to its last second.

Run as ``job.py NAME TYPE SECONDS``; *TYPE* is empty for any. Appends a line of JSON to ``/var/lib/load/NAME`` when it
begins and one when it ends. It runs as root, as only root may tell the emulated driver who uses a device.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, "/opt/emulated-gpu")

from emulator.client import DriverError, control

RESULTS = Path("/var/lib/load")
#: A folder for each device in use: making one fails when another job has made it.
IN_USE = Path("/run/load")
SOCKET = Path("/run/emulated-gpu/driver.sock")
CAPABILITIES = Path("/proc/driver/nvidia/capabilities")


def devices() -> dict[str, dict[str, Any]]:
    """What may stand in ``CUDA_VISIBLE_DEVICES`` -> how the driver calls it, the end of its type, its device files."""
    found: dict[str, dict[str, Any]] = {}
    for gpu in control(SOCKET, "show")["gpus"]:
        minor, index = gpu["minor"], gpu["index"]
        if not gpu["mig_current"]:
            found[str(minor)] = {"target": str(index), "type": "", "files": [f"/dev/nvidia{minor}"]}
        for instance in gpu["gpu_instances"]:
            folder = CAPABILITIES / f"gpu{minor}/mig/gi{instance['id']}"
            for part in instance["compute_instances"]:
                access = (folder / "access", folder / f"ci{part['id']}/access")
                found[part["uuid"]] = {
                    "target": f"{index}/{instance['id']}/{part['id']}",
                    "type": f"_{part['name']}",
                    "files": [
                        f"/dev/nvidia{minor}",
                        *(f"/dev/nvidia-caps/nvidia-cap{_minor(path)}" for path in access),
                    ],
                }
    return found


def _minor(access: Path) -> str:
    return access.read_text(encoding="ascii").split()[1]


def check(visible: list[str], kind: str) -> dict[str, dict[str, Any]]:
    """The devices of this job.

    :raises ValueError: what is wrong with them.
    """
    there = devices()
    if len(visible) != 1:
        raise ValueError(f"expected one device, was given {visible}")
    for one in visible:
        if one not in there:
            raise ValueError(f"was given {one}, and there is only {', '.join(there)}")
        # A type ends with the slice's profile; a whole GPU's has no such end.
        if kind and not kind.endswith(there[one]["type"] or kind.split("_")[-1]):
            raise ValueError(f"asked for {kind}, was given {one}, a {there[one]['type']}")
        if kind and not there[one]["type"] and "g." in kind:
            raise ValueError(f"asked for {kind}, was given the whole GPU {one}")
        for file in there[one]["files"]:
            if not Path(file).is_char_device():
                raise ValueError(f"the device file {file} of {one} is not there")
    return {one: there[one] for one in visible}


def work(kind: str, seconds: float) -> list[str]:
    """Use the devices for some time.

    :raises ValueError, DriverError, OSError: they are not this job's alone, or did not last.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    mine = check(visible, kind)
    IN_USE.mkdir(exist_ok=True)
    for one, device in mine.items():
        (IN_USE / one).mkdir()
        control(SOCKET, "busy", target=device["target"], pid=os.getpid())
    time.sleep(seconds)  # the job's work
    after = check(visible, kind)
    if after != mine:
        raise ValueError(f"had {mine}, has {after}")
    for one in mine:
        (IN_USE / one).rmdir()
    return visible


def main() -> int:
    """Work and say how it went; the exit code."""
    name, kind, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("a", encoding="utf-8") as log:
        where = {"name": name, "node": socket.gethostname()}
        print(json.dumps({**where, "event": "begin"}), file=log, flush=True)
        try:
            given = work(kind, seconds)
        except (ValueError, DriverError, OSError) as error:
            print(json.dumps({**where, "event": "bad", "text": str(error)}), file=log, flush=True)
            return 1
        print(json.dumps({**where, "event": "good", "devices": given}), file=log, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
