# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the apt modules share: Ansible's module object as the machine that the engine works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from .repositories import Change, Completed, Machine
from .sources import RepositoryError

_LARGEST_KEY = 1 << 20


def machine_of(module: Any) -> Machine:
    """The machine that *module* (an ``AnsibleModule``) runs on."""

    def run(command: Sequence[str], variables: Mapping[str, str]) -> Completed:
        return Completed(*module.run_command(list(command), environ_update=dict(variables)))

    return Machine(run, fetch)


def fetch(url: str) -> str:
    """The text at *url*.

    :raises RepositoryError: there is none.
    """
    if not url.startswith(("https://", "http://", "file:/")):
        raise RepositoryError(f"expected the address of a key to begin with https:, http: or file:, found {url!r}")
    try:
        with urlopen(url, timeout=30) as answer:  # noqa: S310 (the schemes are checked above)
            data: bytes = answer.read(_LARGEST_KEY)
    except (URLError, OSError) as error:
        said = f"{getattr(error, 'code', '')} {getattr(error, 'reason', error)}".strip()
        raise RepositoryError(
            f"expected a key at {url}, found: {said}. Nothing was changed. "
            "Check the address, and that this machine reaches it"
        ) from error
    return data.decode("utf-8", errors="replace")


def diff_of(change: Change) -> dict[str, str]:
    """*change* as Ansible shows it."""
    return {
        "before": change.before or "",
        "after": change.after or "",
        "before_header": str(change.path),
        "after_header": str(change.path),
    }
