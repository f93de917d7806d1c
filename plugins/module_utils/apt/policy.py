# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which version of a package is to be installed: what dpkg and ``apt-cache policy`` say, and what a site wants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Policy:
    """What apt knows of a package. *versions*: those it can get, the newest first, each with where it is."""

    installed: str | None
    candidate: str | None
    versions: dict[str, list[str]]


def read_policy(text: str) -> dict[str, Policy]:
    """The output of ``apt-cache policy PACKAGE...`` in the C locale, by package.

    A version that stands in dpkg's database alone can't be got any more and is left out.
    """
    found = {}
    for name, rest in re.findall(r"(?m)^(\S+):\n((?: .*\n?)+)", text):
        known = dict(re.findall(r"(?m)^  (Installed|Candidate): (\S+)$", rest))
        versions: dict[str, list[str]] = {}
        places: list[str] = []
        for line in rest.splitlines():
            if version := re.fullmatch(r" (?:\*\*\*|   ) (\S+) -?\d+(?: \(.*\))?", line):
                places = versions.setdefault(version[1], [])
            elif (place := re.fullmatch(r" {8,} *-?\d+ (.+)", line)) and place[1] != "/var/lib/dpkg/status":
                places.append(place[1])
        found[name] = Policy(
            installed=_known(known.get("Installed")),
            candidate=_known(known.get("Candidate")),
            versions={version: places for version, places in versions.items() if places},
        )
    return found


def matches(version: str, wanted: str) -> bool:
    """Whether *version* is the one, or one of those, *wanted*: a version, a glob, or ``>=`` and the least version."""
    if wanted.startswith(">="):
        return sort_key(version) >= sort_key(wanted.removeprefix(">=").strip())
    return version == wanted or fnmatchcase(version, wanted)


_Parts = tuple[tuple[tuple[int, ...], int], ...]


def sort_key(version: str) -> tuple[int, _Parts, _Parts]:
    """Orders versions as dpkg does: epoch, upstream version, Debian revision; ``~`` comes before the end."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch), _parts(upstream), _parts(revision)


def _parts(text: str) -> _Parts:
    """Runs of other characters, and numbers, in turns. A run ends in 0: before a longer one, but after "~"."""
    return tuple(
        ((*(_weight(letter) for letter in letters), 0), int(number or 0))
        for letters, number in re.findall(r"([^0-9]*)([0-9]*)", text)
    )


def _weight(letter: str) -> int:
    return -1 if letter == "~" else ord(letter) if letter.isalpha() else ord(letter) + 256


def wrong_versions(installed: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The packages of *wanted* that are installed in another version than they should be."""
    return [name for name, glob in wanted.items() if name in installed and not matches(installed[name], glob)]


@dataclass(frozen=True)
class Choice:
    """*install*: what apt is to be given, ``name`` or ``name=version``. *unsatisfied*: packages whose wanted version
    apt can't get, with *reasons*, a sentence each."""

    install: list[str]
    unsatisfied: list[str]
    reasons: list[str]


def choose(policies: Mapping[str, Policy], names: Iterable[str], wanted: Mapping[str, str]) -> Choice:
    """What to install for *names*: the newest version of each that fits what is *wanted*, or just the name."""
    choice = Choice([], [], [])
    for name in names:
        if name not in wanted:
            choice.install.append(name)
            continue
        known = policies.get(name, Policy(None, None, {}))
        fitting = [version for version in known.versions if matches(version, wanted[name])]
        if fitting:
            choice.install.append(f"{name}={fitting[0]}")
            continue
        there = "; ".join(f"{version} from {', '.join(places)}" for version, places in known.versions.items())
        choice.unsatisfied.append(name)
        choice.reasons.append(f"{name}: expected version {wanted[name]}, found {there or 'none at all'}")
    return choice


def _known(word: str | None) -> str | None:
    return None if word in (None, "(none)") else word
