# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frames between library.c, which is the other half of this file, and the daemon.

Request: ``u32`` length of what follows, ``u8`` length of the function's name, the name, the input values as they are in
memory. Reply: ``u32`` length of what follows, ``i32`` return code, then per output value a ``u32`` length and its
bytes. Everything is in native byte order: both ends share a machine.
"""

from __future__ import annotations

import struct

#: In place of a return code: the calling process ends itself with SIGKILL.
KILL = -1
#: A frame is never longer; more is not of this protocol.
MAX_FRAME = 65536
HEADER = struct.Struct("=I")
_STATUS = struct.Struct("=Ii")
_PART = struct.Struct("=I")
#: The function name of the emulator's own requests; its one input and output value is JSON.
CONTROL = "control"


def request(name: str, payload: bytes) -> bytes:
    """A request frame."""
    encoded = name.encode()
    return HEADER.pack(1 + len(encoded) + len(payload)) + bytes((len(encoded),)) + encoded + payload


def parse_request(body: bytes | memoryview) -> tuple[str, bytes]:
    """Name and input values of a request frame without its length.

    :raises ValueError: it is not of this protocol.
    """
    size = body[0] if body else 0
    if not 0 < size < len(body) + 1:
        raise ValueError(f"expected a function name of 1 to {len(body) - 1} bytes, found {size}")
    return bytes(body[1 : 1 + size]).decode(), bytes(body[1 + size :])


def reply(status: int, outs: tuple[bytes, ...] = ()) -> bytes:
    """A reply frame."""
    parts = [_STATUS.pack(4 + sum(4 + len(out) for out in outs), status)]
    for out in outs:
        parts += (_PART.pack(len(out)), out)
    return b"".join(parts)


def parse_reply(body: bytes) -> tuple[int, list[bytes]]:
    """Return code and output values of a reply frame without its length."""
    (status,) = struct.unpack_from("=i", body)
    outs: list[bytes] = []
    position = 4
    while position < len(body):
        (size,) = _PART.unpack_from(body, position)
        outs.append(body[position + 4 : position + 4 + size])
        position += 4 + size
    return status, outs
