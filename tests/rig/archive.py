# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian archive that this machine uses: nodes get their packages from the same place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .process import RigError, run

SUITE = "trixie"


@dataclass(frozen=True)
class Archive:
    """Base URLs of the archive and (when the machine has one) of its security suite; *proxies* are apt's settings."""

    main: str
    security: str | None
    proxies: tuple[str, ...]

    def one_line_sources(self) -> list[str]:
        """For mmdebstrap."""
        lines = [f"deb {self.main} {SUITE} main", f"deb {self.main} {SUITE}-updates main"]
        return [*lines, f"deb {self.security} {SUITE}-security main"] if self.security else lines

    def deb822(self) -> str:
        """The text of ``debian.sources``, of the form (and only the component) that a Debian 13 cloud image has."""
        entries = [(self.main, f"{SUITE} {SUITE}-updates")]
        if self.security:
            entries.append((self.security, f"{SUITE}-security"))
        return "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp\n"
            for uri, suites in entries
        )


def of_this_machine() -> Archive:
    """Read it from apt, whatever form the sources have.

    :raises RigError: apt knows no Debian archive, so there is nowhere to take a node's packages from.
    """
    fields = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"
    # apt knows origin and label only once it has fetched the lists, as "apt-get update" does
    for attempt in ("as it is", "updated"):
        if attempt == "updated":
            run(["apt-get", "-q", "update"])
        listed = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).stdout
        rows = [line.split("|") for line in listed.splitlines()]
        found = {
            label: _direct(uri)
            for origin, label, part, uri in rows
            if (origin, part) == ("Debian", "main") and uri.startswith(("http:", "https:", "mirror+file:"))
        }
        if "Debian" in found:
            settings = run(["apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy"]).stdout
            proxies = tuple(line for line in settings.splitlines() if '""' not in line)
            return Archive(found["Debian"], found.get("Debian-Security"), proxies)
    raise RigError(
        "expected a Debian archive (Origin: Debian, component main, http or https) in this machine's apt sources, "
        "found none; see 'apt-get indextargets' and add one in /etc/apt/sources.list.d/"
    )


def _direct(uri: str) -> str:
    """A plain URL, also where the sources name a list of mirrors, as Debian's own cloud images do."""
    if not uri.startswith("mirror+file:"):
        return uri.rstrip("/")
    path = Path("/" + uri.removeprefix("mirror+file:").strip("/"))
    mirrors = [
        line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"
    ]
    if not mirrors:
        raise RigError(f"expected a mirror in {path}, to which apt's sources point, found none")
    return mirrors[0].rstrip("/")
