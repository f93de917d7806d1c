# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``dkms status`` and the log of a build say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(
    r"(?P<name>[^/,\s]+)/(?P<version>[^,:\s]+)(?:, (?P<kernel>[^,\s]+), (?P<arch>[^:\s]+))?: "
    r"(?P<state>added|built|installed|broken)\b(?P<rest>.*)"
)
# The first since dkms 3.1, the second before. "(Original modules exist)" is none.
_WARNING = re.compile(r"\(((?:Built modules are missing|Differences between)[^)]*)\)|WARNING!\s*([^)]*)")
# The compiler, then the linker of modules (which names symbols that a kernel does not offer), then make.
_ERRORS = (
    re.compile(r"^(?P<place>[^\s:][^:]*:\d+:(?:\d+:)?) (?:fatal )?error: (?P<text>.+)$"),
    re.compile(r"^(?P<text>ERROR: modpost: .+)$"),
    re.compile(r"^(?P<text>.*\berror: .+)$", re.IGNORECASE),
    re.compile(r"^(?P<text>make.*: \*\*\* .+)$"),
)


@dataclass(frozen=True)
class Entry:
    """A line of ``dkms status``: a module that is known (*kernel* is ``None``), or its state for a kernel."""

    name: str
    version: str
    kernel: str | None
    state: str
    warning: str


def parse_status(text: str) -> list[Entry]:
    """Read the output of ``dkms status`` (dkms 3)."""
    found = []
    for line in text.splitlines():
        if match := _ENTRY.match(line.strip()):
            warning = _WARNING.search(match["rest"])
            found.append(
                Entry(
                    match["name"],
                    match["version"],
                    match["kernel"],
                    match["state"],
                    (warning[1] or warning[2]).strip() if warning else "",
                )
            )
    return found


def signing_error(said: str) -> str | None:
    """What went wrong when dkms signed what it had built, of which it only warns; ``None`` where nothing did."""
    match = re.search(r"Failed to sign module '([^']*)'!\s*(.*)", said)
    if match is None:
        return None
    return (
        f"{Path(match[1]).name} was built and can't be signed ({match[2].strip() or 'no reason is given'}): see that "
        "key and certificate (mok_signing_key, mok_certificate in /etc/dkms/framework.conf.d) are a pair, and have no "
        "passphrase"
    )


def first_error(log: str) -> str:
    """The line of a build's log from which the rest follows; the last line that says anything where there is none."""
    lines = log.splitlines()
    for pattern in _ERRORS:
        for line in lines:
            if match := pattern.match(line.strip()):
                place = match.groupdict().get("place")
                return f"{_short(place)} {match['text']}" if place else match["text"]
    said = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-"))]
    return said[-1] if said else "the build left no log"


def _short(place: str) -> str:
    """``source/app/App.c:7:3:`` of the place in dkms's own copy of the source."""
    return re.sub(r"^/var/lib/dkms/[^/]+/[^/]+/build/", "", place)
