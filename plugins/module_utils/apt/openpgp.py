# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints of the OpenPGP certificates in an ASCII-armoured file.

Debian 13 has nothing that prints them: its apt verifies with ``sqv``, which names a key only when it has signed
something. So that apt can't read another key out of the file than was checked here, the file must be one armoured block
of packets with plain lengths, and what is written for apt is that block made anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(
    r"\A\s*-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n"
    r"(?P<headers>(?:[A-Za-z]+: [^\r\n]*\r?\n)*)"
    r"[ \t]*\r?\n"
    r"(?P<body>[A-Za-z0-9+/=\s]+?)"
    r"(?:\r?\n=(?P<sum>[A-Za-z0-9+/]{4}))?\s*"
    r"-----END PGP PUBLIC KEY BLOCK-----\s*\Z"
)
_PUBLIC_KEY = 6
#: Signature, public key, trust, user id, public subkey, user attribute: what a certificate is made of.
_ALLOWED = {2, _PUBLIC_KEY, 12, 13, 14, 17}


class KeyTextError(ValueError):
    """The text is not what apt should be given as a key."""


@dataclass(frozen=True)
class Keys:
    """*armoured*: the text for apt; *fingerprints*: of every certificate in it, in order, in capitals."""

    armoured: str
    fingerprints: tuple[str, ...]


def read_keys(text: str) -> Keys:
    """The certificates in *text*.

    :raises KeyTextError: it is no single armoured block of public keys.
    """
    block = _BLOCK.match(text)
    if not block:
        begin = " ".join(text.split())[:40]
        raise KeyTextError(
            "expected one block '-----BEGIN PGP PUBLIC KEY BLOCK-----' to '-----END PGP PUBLIC KEY BLOCK-----' and "
            f"nothing else, found {begin!r}{'...' if len(text) > 40 else ''}"
        )
    try:
        data = base64.b64decode("".join(block["body"].split()), validate=True)
    except binascii.Error as error:
        raise KeyTextError(f"expected base64 text in the key block: {error}") from error
    if block["sum"] and int.from_bytes(base64.b64decode(block["sum"]), "big") != _crc24(data):
        raise KeyTextError(
            "the checksum at the end of the key block does not fit its content: part of it was lost or changed"
        )
    packets = list(_packets(data))
    if not packets or packets[0][0] != _PUBLIC_KEY:
        raise KeyTextError("expected the key block to begin with a public key")
    for tag, _ in packets:
        if tag not in _ALLOWED:
            raise KeyTextError(
                f"expected public keys, their names and signatures in the key block, found a packet of kind {tag}"
            )
    found = tuple(_fingerprint(body) for tag, body in packets if tag == _PUBLIC_KEY)
    return Keys(_armour(data), found)


def wanted_fingerprint(text: str) -> str:
    """*text*, as people write a fingerprint, in the form compared here.

    :raises KeyTextError: it is too short to name one key, or no fingerprint at all.
    """
    bare = "".join(text.split()).upper().removeprefix("0X")
    if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", bare):
        raise KeyTextError(f"expected a whole fingerprint, 40 (or 64) hexadecimal digits, found {text!r}")
    return bare


def check_fingerprints(keys: Keys, wanted: list[str]) -> None:
    """Refuse *keys* unless each of them is among the *wanted* fingerprints.

    :raises KeyTextError: one is not.
    """
    known = [wanted_fingerprint(one) for one in wanted]
    foreign = [one for one in keys.fingerprints if one not in known]
    if foreign:
        raise KeyTextError(f"expected a key with the fingerprint {' or '.join(known)}, found {' and '.join(foreign)}")


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        try:
            tag, start, length = _header(data, at)
        except IndexError as error:
            raise KeyTextError("the key block ends in the middle of a packet") from error
        if start + length > len(data):
            raise KeyTextError("the key block ends in the middle of a packet")
        yield tag, data[start : start + length]
        at = start + length


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Kind, first byte of the body and its length, of the packet at *at* (RFC 9580, section 4.2)."""
    first = data[at]
    if not first & 0x80:
        raise KeyTextError(f"expected an OpenPGP packet at byte {at} of the key block, found 0x{first:02x}")
    if first & 0x40:
        octet = data[at + 1]
        if octet < 192:
            return first & 0x3F, at + 2, octet
        if octet < 224:
            return first & 0x3F, at + 3, ((octet - 192) << 8) + data[at + 2] + 192
        if octet == 255:
            return first & 0x3F, at + 6, _number(data, at + 2, 4)
        raise KeyTextError("expected packets of a plain length in the key block, found one in parts")
    size = {0: 1, 1: 2, 2: 4}.get(first & 0x03)
    if size is None:
        raise KeyTextError("expected packets of a plain length in the key block, found one without")
    return (first & 0x3C) >> 2, at + 1 + size, _number(data, at + 1, size)


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "big")


def _fingerprint(body: bytes) -> str:
    version = body[0] if body else 0
    if version == 4:
        # the standard's own fingerprint, not a choice made here
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise KeyTextError(f"expected an OpenPGP key of version 4 or 6, found version {version}")


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def _armour(data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PGP PUBLIC KEY BLOCK-----", "", *lines, "-----END PGP PUBLIC KEY BLOCK-----", ""])
