# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of an OpenPGP public key, so that a policy with keys that nobody gave is refused beforehand."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_ARMOR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(?:[^\n:]+: [^\n]*\n)*\s*\n"
    r"(.*?)(?:^=\S{4}\s*)?^-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL | re.MULTILINE,
)
_PUBLIC_KEY = 6


def fingerprint(text: str) -> str:
    """Forty hexadecimal digits of the primary key in the ASCII-armoured *text* (version 4, as RFC 4880 has it).

    :raises ValueError: it is no such key.
    """
    found = _ARMOR.search(text.replace("\r\n", "\n"))
    if found is None:
        raise ValueError(
            "expected a public key from -----BEGIN PGP PUBLIC KEY BLOCK----- to its END line, as apptainer key export "
            f"--armor writes it, found {text[:40]!r}"
        )
    try:
        data = base64.b64decode("".join(found[1].split()), validate=True)
        body = _first_packet(data)
    except (binascii.Error, IndexError) as error:
        raise ValueError(f"expected a whole public key, found one that is cut off or damaged: {error}") from error
    if body[:1] != b"\x04":
        raise ValueError(f"expected an OpenPGP key of version 4, found version {body[0] if body else 'none'}")
    # OpenPGP's own definition, and no protection of anything here
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()


def _first_packet(data: bytes) -> bytes:
    """The body of the first packet, which is the primary key."""
    tag = data[0]
    if not tag & 0x80:
        raise ValueError("expected an OpenPGP packet, found something else")
    if tag & 0x40:
        kind, size, start = tag & 0x3F, *_new_length(data)
    else:
        kind, octets = (tag >> 2) & 0xF, (1, 2, 4, 0)[tag & 3]
        if octets == 0:
            raise ValueError("expected a packet with a length, found one without")
        size, start = int.from_bytes(data[1 : 1 + octets], "big"), 1 + octets
    if kind != _PUBLIC_KEY:
        raise ValueError(f"expected a public key (packet 6) first, found packet {kind}")
    body = data[start : start + size]
    if len(body) < size or not body:
        raise IndexError(f"{len(body)} of {size} bytes")
    return body


def _new_length(data: bytes) -> tuple[int, int]:
    first = data[1]
    if first < 192:
        return first, 2
    if first < 224:
        return ((first - 192) << 8) + data[2] + 192, 3
    if first == 255:
        return int.from_bytes(data[2:6], "big"), 6
    raise ValueError("expected a key in one piece, found one in parts")
