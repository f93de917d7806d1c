# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints, against what gpg says of keys that it made; and everything that is not one plain block of keys."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.apt.openpgp import (
    KeyTextError,
    check_fingerprints,
    read_keys,
    wanted_fingerprint,
)

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "-----END PGP PUBLIC KEY BLOCK-----\n"


def block(data: bytes) -> str:
    return f"{_BEGIN}\n{base64.b64encode(data).decode()}\n{_END}"


def packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4, "big") + body


KEY4 = packet(6, b"\x04" + bytes(60))


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)

    def run(*words: str) -> str:
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    for kind in ("ed25519", "rsa2048"):
        run("--quick-generate-key", f"{kind} <root@localhost>", kind, "sign", "never")
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)
    return run


def fingerprints(colons: str) -> list[str]:
    return [line.split(":")[9] for line in colons.splitlines() if line.startswith("fpr")]


def test_fingerprints_are_those_that_gpg_names(gpg: Callable[..., str]) -> None:
    known = fingerprints(gpg("--with-colons", "--list-keys"))
    assert len(known) == 2
    assert list(read_keys(gpg("--armor", "--export")).fingerprints) == known
    for one in known:
        text = gpg("--armor", "--export", one)
        assert read_keys(text).fingerprints == (one,)
        assert read_keys(text.replace("\n", "\r\n")).fingerprints == (one,)


def test_what_is_written_for_apt_is_the_same_key(gpg: Callable[..., str], tmp_path: Path) -> None:
    known = fingerprints(gpg("--with-colons", "--list-keys"))
    anew = tmp_path / "anew.asc"
    anew.write_text(read_keys(gpg("--armor", "--export")).armoured)
    assert fingerprints(gpg("--with-colons", "--show-keys", str(anew))) == known


def test_a_key_of_version_6_and_packets_of_every_plain_length() -> None:
    body = b"\x06" + bytes(40)
    assert len(read_keys(block(packet(6, body))).fingerprints[0]) == 64
    short, middle, old1, old2, old4 = (
        bytes([0xC0 | 13, 100]) + bytes(100),
        bytes([0xC0 | 13, 192, 8]) + bytes(200),
        bytes([0x80 | 13 << 2, 5]) + bytes(5),
        bytes([0x80 | 13 << 2 | 1, 1, 0]) + bytes(256),
        bytes([0x80 | 13 << 2 | 2, 0, 0, 0, 3]) + bytes(3),
    )
    assert len(read_keys(block(KEY4 + short + middle + old1 + old2 + old4)).fingerprints) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<html>not found</html>", "found '<html>not found</html>'"),
        ("x" * 99, "found 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'..."),
        (block(KEY4) + block(KEY4), "expected one block"),
        (block(KEY4) + "more", "expected one block"),
        (f"{_BEGIN}\nab=c\n{_END}", "expected base64 text"),
        (block(KEY4).replace(_END, "=AAAA\n" + _END), "the checksum at the end"),
        (block(packet(13, b"name") + KEY4), "to begin with a public key"),
        (block(KEY4 + packet(5, b"secret")), "a packet of kind 5"),
        (block(b"\x00" + KEY4), "expected an OpenPGP packet at byte 0 of the key block, found 0x00"),
        (block(KEY4[:-1]), "ends in the middle"),
        (block(KEY4 + b"\xcd"), "ends in the middle"),
        (block(KEY4 + b"\x9a\x00"), "ends in the middle"),
        (block(KEY4 + bytes([0xC0 | 13, 224])), "found one in parts"),
        (block(KEY4 + bytes([0x80 | 13 << 2 | 3])), "found one without"),
        (block(packet(6, b"\x03" + bytes(9))), "found version 3"),
        (block(packet(6, b"")), "found version 0"),
    ],
)
def test_anything_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(KeyTextError, match=r"expected|block") as raised:
        read_keys(text)
    assert words in str(raised.value)


def test_a_fingerprint_as_people_write_it() -> None:
    assert wanted_fingerprint("0x" + "ab12 " * 10) == "AB12" * 10
    assert wanted_fingerprint("a" * 64) == "A" * 64
    for bad in ("8793F200", "g" * 40, ""):
        with pytest.raises(KeyTextError, match="expected a whole fingerprint"):
            wanted_fingerprint(bad)


def test_every_key_must_be_one_of_those_wanted() -> None:
    keys = read_keys(block(KEY4 + packet(6, b"\x04" + bytes(61))))
    first, second = keys.fingerprints
    check_fingerprints(keys, [second.lower(), first])
    with pytest.raises(KeyTextError, match=f"expected a key with the fingerprint {first}, found {second}"):
        check_fingerprints(keys, [first])
