# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository may be described as, and the files it becomes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.apt.sources import (
    RepositoryError,
    preferences_text,
    repository,
    source_text,
)

from .test_openpgp import KEY4, block

FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
GOOD: dict[str, Any] = {
    "name": "site",
    "uris": ["https://apt.example.org/debian"],
    "suites": ["trixie"],
    "components": ["main"],
    "key_url": "https://apt.example.org/key.asc",
    "key_fingerprint": FINGERPRINT,
}


def test_the_files() -> None:
    pin = {"packages": ["slurm-*", "munge"], "pin": "version  24.11.*", "priority": "990"}
    other = {"packages": "x", "pin": 'origin "h"', "priority": -1}
    one = repository({**GOOD, "architectures": ["amd64"], "pin": [pin, other]})
    head = "# Written by the role hpc.compute.apt_packages; local changes are overwritten.\n"
    assert source_text(one, "/etc/apt/keyrings/k.asc") == (
        f"{head}Types: deb\nURIs: https://apt.example.org/debian\nSuites: trixie\nComponents: main\n"
        "Architectures: amd64\nSigned-By: /etc/apt/keyrings/k.asc\n"
    )
    assert preferences_text(one) == (
        f"{head}Package: slurm-* munge\nPin: version 24.11.*\nPin-Priority: 990\n\n"
        'Package: x\nPin: origin "h"\nPin-Priority: -1\n'
    )
    assert preferences_text(repository(GOOD)) == ""
    flat = repository({"name": "own", "uris": "file:/srv", "suites": "./", "trusted": True})
    assert source_text(flat, "unused") == f"{head}Types: deb\nURIs: file:/srv\nSuites: ./\nTrusted: yes\n"
    gone = repository({"name": "own", "state": "absent"})
    assert gone.absent
    assert (gone.key_path, gone.source_path, gone.preferences_path) == (
        "etc/apt/keyrings/hpc-compute-own.asc",
        "etc/apt/sources.list.d/hpc-compute-own.sources",
        "etc/apt/preferences.d/hpc-compute-own",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Site"}, "expected a name of small letters"),
        ({"name": "../x"}, "expected a name of small letters"),
        ({"name": "contrib-non-free"}, "no component of Debian's"),
        ({"url": "x"}, "found url"),
        ({"state": "gone"}, "found 'gone'"),
        ({"uris": []}, "found no uris"),
        ({"suites": None}, "found no suites"),
        ({"uris": ["https://a b"]}, "expected words without spaces in uris, found 'https://a b'"),
        ({"suites": ["x\nTrusted: yes"]}, "expected words without spaces in suites"),
        ({"components": []}, "expected components for the suites trixie"),
        ({"suites": ["./"]}, "expected either suites with components"),
        ({"suites": ["./", "trixie"], "components": []}, "expected either suites with components"),
        ({"key_url": None}, "found none; apt would take packages from anybody"),
        ({"key": block(KEY4)}, "found key and key_url"),
        ({"key_fingerprint": None}, "expected key_fingerprint beside key_url"),
        ({"key_fingerprint": "8793F200"}, "key_fingerprint: expected a whole fingerprint"),
        ({"key": "nonsense", "key_url": None}, "key from the variable or file: expected one block"),
        ({"key": block(KEY4), "key_url": None}, f"expected a key with the fingerprint {FINGERPRINT}"),
        ({"trusted": True}, "expected only file: addresses in a trusted repository"),
        ({"trusted": True, "uris": ["file:/srv"]}, "expected a key or trusted, found both"),
        ({"pin": [{"packages": ["x"]}]}, "expected packages, pin and priority"),
        ({"pin": ["x"]}, "expected packages, pin and priority"),
        ({"pin": [{"packages": ["x"], "pin": "24.11", "priority": 1}]}, "expected a pin such as"),
        ({"pin": [{"packages": ["x"], "pin": "version 1", "priority": "high"}]}, "found 'high'"),
        ({"pin": [{"packages": [], "pin": "version 1", "priority": 1}]}, "expected packages in each entry"),
    ],
)
def test_what_apt_should_not_be_given(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RepositoryError) as raised:
        repository({**GOOD, **change})
    assert words in str(raised.value)
