# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package repository as the roles are given it, and the files that make it known to apt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .openpgp import Keys, KeyTextError, check_fingerprints, read_keys, wanted_fingerprint

KEYRINGS = "etc/apt/keyrings"
SOURCES = "etc/apt/sources.list.d"
PREFERENCES = "etc/apt/preferences.d"
_WRITTEN_BY = "# Written by the role hpc.compute.apt_packages; local changes are overwritten.\n"
#: In ``hpc-compute-<name>.sources`` these stand for Debian's own archive (see tasks/components.yml of the role).
_COMPONENTS = {"main", "contrib", "non", "free", "firmware"}
_KEYS = {
    "name",
    "uris",
    "suites",
    "components",
    "architectures",
    "key",
    "key_url",
    "key_fingerprint",
    "trusted",
    "pin",
    "state",
}


class RepositoryError(ValueError):
    """A repository is described in a way that apt can't or shouldn't use."""


@dataclass(frozen=True)
class Pin:
    """One record of apt_preferences(5)."""

    packages: tuple[str, ...]
    pin: str
    priority: int


@dataclass(frozen=True)
class Repository:
    """*key* is the ASCII-armoured text; a key to be fetched has *key_url* and *fingerprints* instead."""

    name: str
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    key: str | None = None
    key_url: str | None = None
    fingerprints: tuple[str, ...] = ()
    trusted: bool = False
    pins: tuple[Pin, ...] = field(default=())
    absent: bool = False

    @property
    def key_path(self) -> str:
        """Relative to the root of the machine, as the other paths."""
        return f"{KEYRINGS}/hpc-compute-{self.name}.asc"

    @property
    def source_path(self) -> str:
        return f"{SOURCES}/hpc-compute-{self.name}.sources"

    @property
    def preferences_path(self) -> str:
        return f"{PREFERENCES}/hpc-compute-{self.name}"


def repository(given: Mapping[str, Any]) -> Repository:
    """The repository that *given* describes; everything about it is checked that can be without reaching it.

    :raises RepositoryError: something is missing, unknown or contradictory.
    """
    name = str(given.get("name", ""))
    where = f"repository {name!r}"
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) or set(name.split("-")) <= _COMPONENTS:
        raise RepositoryError(
            f"{where}: expected a name of small letters, digits, dots and hyphens that is no component of Debian's"
        )
    unknown = sorted(set(given) - _KEYS)
    if unknown:
        raise RepositoryError(f"{where}: expected the keys {', '.join(sorted(_KEYS))}, found {', '.join(unknown)}")
    state = given.get("state") or "present"
    if state not in ("present", "absent"):
        raise RepositoryError(f"{where}: expected state to be present or absent, found {state!r}")
    if state == "absent":
        return Repository(name, (), (), absent=True)
    made = Repository(
        name,
        uris=_words(where, given, "uris"),
        suites=_words(where, given, "suites"),
        components=_words(where, given, "components"),
        architectures=_words(where, given, "architectures"),
        key=given.get("key") or None,
        key_url=given.get("key_url") or None,
        fingerprints=_fingerprints(where, given.get("key_fingerprint")),
        trusted=bool(given.get("trusted")),
        pins=tuple(_pin(where, pin) for pin in given.get("pin") or ()),
    )
    _check(where, made)
    return made


def read_key(one: Repository, text: str, origin: str) -> Keys:
    """The key of *one*, whose *text* came from *origin*.

    :raises RepositoryError: it is not a key, or another key than the one asked for.
    """
    try:
        keys = read_keys(text)
        if one.fingerprints:
            check_fingerprints(keys, list(one.fingerprints))
    except KeyTextError as error:
        raise RepositoryError(f"repository {one.name!r}, key from {origin}: {error}") from error
    return keys


def source_text(one: Repository, key_path: str) -> str:
    """The deb822 text for sources.list.d; *key_path* is where apt finds the key."""
    fields = {
        "Types": "deb",
        "URIs": " ".join(one.uris),
        "Suites": " ".join(one.suites),
        "Components": " ".join(one.components),
        "Architectures": " ".join(one.architectures),
        "Trusted": "yes" if one.trusted else "",
        "Signed-By": "" if one.trusted else key_path,
    }
    return _WRITTEN_BY + "".join(f"{key}: {value}\n" for key, value in fields.items() if value)


def preferences_text(one: Repository) -> str:
    """The text for preferences.d; empty where nothing is pinned."""
    records = [f"Package: {' '.join(pin.packages)}\nPin: {pin.pin}\nPin-Priority: {pin.priority}\n" for pin in one.pins]
    return _WRITTEN_BY + "\n".join(records) if records else ""


def _words(where: str, given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = given.get(key) or []
    if isinstance(value, str):
        value = [value]
    words = tuple(str(word) for word in value)
    for word in words:
        if not re.fullmatch(r"[!-~]+", word):
            raise RepositoryError(f"{where}: expected words without spaces in {key}, found {word!r}")
    return words


def _fingerprints(where: str, value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) and value else list(value or ())
    try:
        return tuple(wanted_fingerprint(str(one)) for one in listed)
    except KeyTextError as error:
        raise RepositoryError(f"{where}, key_fingerprint: {error}") from error


def _pin(where: str, given: Any) -> Pin:
    if not isinstance(given, Mapping) or set(given) != {"packages", "pin", "priority"}:
        raise RepositoryError(f"{where}: expected packages, pin and priority in each entry of pin, found {given!r}")
    pin = " ".join(str(given["pin"]).split())
    if not re.match(r"(version|release|origin) \S", pin):
        raise RepositoryError(f"{where}: expected a pin such as 'version 24.11.*' or 'origin \"host\"', found {pin!r}")
    try:
        priority = int(given["priority"])
    except (TypeError, ValueError) as error:
        raise RepositoryError(f"{where}: expected a number as priority, found {given['priority']!r}") from error
    packages = _words(where, given, "packages")
    if not packages:
        raise RepositoryError(f"{where}: expected packages in each entry of pin, found none")
    return Pin(packages, pin, priority)


def _check(where: str, one: Repository) -> None:
    if not one.uris or not one.suites:
        raise RepositoryError(f"{where}: expected uris and suites, found {'no suites' if one.uris else 'no uris'}")
    flat = [suite for suite in one.suites if suite.endswith("/")]
    if flat and (len(flat) < len(one.suites) or one.components):
        raise RepositoryError(
            f"{where}: expected either suites with components, or suites that end in '/' without; found suites "
            f"{' '.join(one.suites)}, components {' '.join(one.components) or '(none)'}"
        )
    if not flat and not one.components:
        raise RepositoryError(f"{where}: expected components for the suites {' '.join(one.suites)}, found none")
    keys = [name for name in ("key", "key_url") if getattr(one, name)]
    if one.trusted:
        away = [uri for uri in one.uris if not uri.startswith("file:")]
        if away:
            raise RepositoryError(
                f"{where}: expected only file: addresses in a trusted repository, found {' '.join(away)}"
            )
        if keys:
            raise RepositoryError(f"{where}: expected a key or trusted, found both")
        return
    if len(keys) != 1:
        raise RepositoryError(
            f"{where}: expected one of key, key_file and key_url, found {' and '.join(keys) or 'none'}; apt would "
            "take packages from anybody"
        )
    if one.key_url and not one.fingerprints:
        raise RepositoryError(f"{where}: expected key_fingerprint beside key_url, found none; anybody's key would do")
    if one.key:
        read_key(one, one.key, "the variable or file")
