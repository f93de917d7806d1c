# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter web_password: hashes that exporters accept, the same in each run."""

from __future__ import annotations

import re
import sys
from typing import Any

import bcrypt
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.filter.web_password import FilterModule

web_password = FilterModule().filters()["web_password"]


def test_a_hash_fits_its_password_alone() -> None:
    hashed = web_password("correct horse", "node1/prometheus")
    assert re.fullmatch(r"\$2b\$10\$[./A-Za-z0-9]{53}", hashed)
    assert bcrypt.checkpw(b"correct horse", hashed.encode())
    assert not bcrypt.checkpw(b"wrong", hashed.encode())


def test_salt() -> None:
    one = web_password("x", "node1/prometheus")
    assert web_password("x", "node1/prometheus") == one
    other = web_password("x", "node2/prometheus")
    assert other[:29] != one[:29]
    # A salt made of the password would tell it to whoever sees the hash, at the price of one cheap digest a guess.
    assert web_password("y", "node1/prometheus")[:29] == one[:29]


@pytest.mark.parametrize("password", ["", "x" * 73, "a\0b"])
def test_passwords_that_bcrypt_would_cut_or_refuse(password: str) -> None:
    with pytest.raises(AnsibleFilterError, match="a password of 1 to 72 bytes") as failure:
        web_password(password, "s")
    assert password == "" or password not in str(failure.value)


@pytest.mark.parametrize(("password", "salt"), [(5, "s"), ("x", ""), ("x", None)])
def test_other_things(password: Any, salt: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="expected a password and a text"):
        web_password(password, salt)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(AnsibleFilterError, match="install it"):
        web_password("x", "s")
