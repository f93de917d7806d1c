# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talking to a running daemon: control requests of the command line and of tests."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from . import wire
from .errors import Code


class DriverError(Exception):
    """The daemon refused or is not there. *code* is the NVML code when the driver refused."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code


def control(path: Path, command: str, **fields: Any) -> Any:
    """Have the daemon at *path* carry out a command; its result.

    :raises DriverError: no daemon, or it refused.
    """
    request = wire.request(wire.CONTROL, json.dumps({"command": command, **fields}).encode())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(30)
            connection.connect(str(path))
            connection.sendall(request)
            (size,) = wire.HEADER.unpack(_exactly(connection, wire.HEADER.size))
            _, outs = wire.parse_reply(_exactly(connection, size))
    except OSError as error:
        raise DriverError(f"no emulated driver answers at {path} ({error}): start it with 'serve'") from error
    answer = json.loads(outs[0])
    if "error" in answer:
        raise DriverError(answer["error"], Code[answer["code"]] if "code" in answer else None)
    return answer["result"]


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        chunk = connection.recv(size - len(parts))
        if not chunk:
            raise ConnectionError("the daemon closed the connection")
        parts += chunk
    return bytes(parts)
