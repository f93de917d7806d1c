# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter web_password: the hash of a password as Prometheus' exporters want it, the same in each run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

_ROUNDS = 10
_PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BCRYPT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: bcrypt itself stops there, and some of its libraries refuse what is longer.
_MOST_BYTES = 72


def web_password(password: Any, salt_from: Any) -> str:
    """The hash of *password*, with a salt that is made of *salt_from* alone: it differs between machines and users, and
    a second run finds the same.
    """
    if not isinstance(password, str) or not isinstance(salt_from, str) or not salt_from:
        raise AnsibleFilterError(
            "web_password: expected a password and a text to make the salt of, found something else"
        )
    secret = password.encode()
    if not 0 < len(secret) <= _MOST_BYTES or b"\0" in secret:
        raise AnsibleFilterError(
            f"web_password: expected a password of 1 to {_MOST_BYTES} bytes, found one of {len(secret)} bytes"
        )
    try:
        import bcrypt
    except ImportError as error:
        raise AnsibleFilterError(
            "web_password: expected the Python library bcrypt on the control machine, found none: install it "
            "(python3-bcrypt, or 'pip install bcrypt'), or give a hash instead of a password"
        ) from error
    digest = base64.b64encode(hashlib.sha256(salt_from.encode()).digest()[:16]).decode("ascii").rstrip("=")
    salt = f"$2b${_ROUNDS}${digest.translate(str.maketrans(_PLAIN, _BCRYPT))}"
    return bcrypt.hashpw(secret, salt.encode("ascii")).decode("ascii")


class FilterModule:
    """Ansible looks the filters up here."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"web_password": web_password}
