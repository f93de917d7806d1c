# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout language: mig-parted's configuration format v1, checked strictly, and what the project adds to it.

Added are names for GPUs in ``devices`` (PCI address, UUID, model glob beside ``all`` and indices) and intents in
``mig-devices`` (``1g``, ``half``, ``whole`` beside profile names). What mig-parted passes over in silence (a malformed
device filter, two entries for one GPU, a key twice) is an error here, since what it means is never what was wanted.

This file works on plain lists and dicts and so needs no YAML; :mod:`.layout_file` reads text and keeps line numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .layout_names import DeviceFilter, ProfileName, Selector, device_filter, profile_name, selector

VERSION = "v1"
#: No board takes more than 8 instances; beyond this a count is a typing error and not worth a search.
MOST_INSTANCES = 64

Path = tuple[str | int, ...]
Lines = Mapping[Path, int]


class LayoutError(ValueError):
    """A layout that can't be used. The text names the line (when it came from text) and the place in the structure."""

    def __init__(self, message: str, path: Path = (), line: int | None = None) -> None:
        self.message = message
        self.path = path
        self.line = line
        super().__init__(": ".join(part for part in (self.where(), message) if part))

    def where(self) -> str:
        """``line 4, mig-configs.all-small[0].devices``; empty when the whole layout is meant."""
        return where(self.path, self.line)


@dataclass(frozen=True)
class Entry:
    """One item of a configuration: these GPUs shall be like this.

    *devices* is ``None`` for ``all``. *filters* is empty when boards of every kind are meant. *path* and *line* say
    where it is written.
    """

    devices: tuple[Selector, ...] | None
    mig_enabled: bool
    mig_devices: tuple[tuple[ProfileName, int], ...] = ()
    filters: tuple[DeviceFilter, ...] = ()
    path: Path = field(default=(), compare=False)
    line: int | None = field(default=None, compare=False)

    def where(self) -> str:
        """``line 4, mig-configs.all-small[0]``"""
        return where(self.path, self.line)


@dataclass(frozen=True)
class Layout:
    """All configurations of a layout file by name."""

    configs: Mapping[str, tuple[Entry, ...]]

    def config(self, name: str | None = None) -> tuple[Entry, ...]:
        """The entries of configuration *name*; of the only one when *name* is ``None``.

        :raises LayoutError: there is none of this name, or no name was given and there are several.
        """
        names = ", ".join(sorted(self.configs))
        if name is None:
            if len(self.configs) == 1:
                return next(iter(self.configs.values()))
            raise LayoutError(f"expected the name of one of its configurations, found none: choose one of {names}")
        if name not in self.configs:
            raise LayoutError(f"expected one of the configurations {names}, found {name!r}", ("mig-configs",))
        return self.configs[name]


def where(path: Path, line: int | None = None) -> str:
    """A place in a layout, for messages."""
    dotted = ""
    for part in path:
        dotted += f"[{part}]" if isinstance(part, int) else f"{'.' if dotted else ''}{part}"
    return ", ".join(part for part in (f"line {line}" if line is not None else "", dotted) if part)


def parse_layout(data: Any, lines: Lines | None = None) -> Layout:
    """Check a whole layout (``version`` and ``mig-configs``) and make it ready for use.

    :param lines: line number of each place, from :func:`.layout_file.load`.
    :raises LayoutError: the first thing that is wrong with it.
    """
    at = _Reader(lines or {})
    root = at.mapping(data, (), "a layout with `version` and `mig-configs`", required=("version", "mig-configs"))
    if root["version"] != VERSION:
        raise at.error(("version",), f"{VERSION!r}, the only version there is", root["version"])
    configs = root["mig-configs"]
    if not isinstance(configs, Mapping) or not configs:
        raise at.error(("mig-configs",), "configurations by name, at least one", configs)
    parsed = {}
    for name, entries in configs.items():
        if not isinstance(name, str) or not name:
            raise at.error(("mig-configs",), "a text as name of each configuration", name)
        parsed[name] = _parse_entries(at, entries, ("mig-configs", name))
    return Layout(parsed)


def parse_entries(data: Any, lines: Lines | None = None) -> tuple[Entry, ...]:
    """Check the entries of one configuration that stand alone.

    :raises LayoutError: the first thing that is wrong with them.
    """
    return _parse_entries(_Reader(lines or {}), data, ())


class _Reader:
    """Checks of single values, with errors that know their line."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def line(self, path: Path) -> int | None:
        """The line of *path*, or of the nearest thing around it."""
        return next((self._lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._lines), None)

    def error(self, path: Path, expected: str, found: Any) -> LayoutError:
        return LayoutError(f"expected {expected}, found {shown(found)}", path, self.line(path))

    def mapping(
        self, value: Any, path: Path, what: str, required: Sequence[str], allowed: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.error(path, what, value)
        known = (*required, *allowed)
        for key in value:
            if key not in known:
                place = (*path, _key(key))
                raise LayoutError(
                    f"expected only the keys {', '.join(known)}, found {shown(key)}", place, self.line(place)
                )
        for key in required:
            if key not in value:
                raise LayoutError(f"expected the key `{key}`, which is missing", path, self.line(path))
        return value


def shown(value: Any) -> str:
    """A value in a message: short, whatever was written."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, str) else _number(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _key(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)


def _number(value: Any) -> str:
    # Python refuses to print integers of more than some thousand digits.
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return str(value)


def _parse_entries(at: _Reader, data: Any, path: Path) -> tuple[Entry, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str) or not data:
        raise at.error(path, "a list of entries, at least one", data)
    entries = tuple(_parse_entry(at, entry, (*path, number)) for number, entry in enumerate(data))
    for number, entry in enumerate(entries):
        for earlier in entries[:number]:
            shared = _overlap(earlier, entry)
            if shared is not None:
                raise LayoutError(
                    f"expected each GPU in one entry, found {shared} named by this entry and by the one at "
                    f"{earlier.where()}: a GPU can be cut in one way only",
                    entry.path,
                    entry.line,
                )
    return entries


def _parse_entry(at: _Reader, data: Any, path: Path) -> Entry:
    entry = at.mapping(
        data,
        path,
        "an entry with `devices` and `mig-enabled`",
        ("devices", "mig-enabled"),
        ("device-filter", "mig-devices"),
    )
    enabled = entry["mig-enabled"]
    if not isinstance(enabled, bool):
        raise at.error((*path, "mig-enabled"), "true or false", enabled)
    return Entry(
        devices=_parse_devices(at, entry["devices"], (*path, "devices")),
        mig_enabled=enabled,
        mig_devices=_parse_mig_devices(at, entry, enabled, path),
        filters=_parse_filters(at, entry, (*path, "device-filter")),
        path=path,
        line=at.line(path),
    )


def _parse_filters(at: _Reader, entry: Mapping[str, Any], path: Path) -> tuple[DeviceFilter, ...]:
    if "device-filter" not in entry:
        return ()
    expected = "a PCI id as text, '0x' and the device and vendor id ('0x233010DE'), or a list of them"
    filters = []
    for place, text in _items(at, entry["device-filter"], path, expected):
        parsed = device_filter(text) if isinstance(text, str) else f"expected {expected}, found {shown(text)}"
        if isinstance(parsed, str):
            raise LayoutError(parsed, place, at.line(place))
        filters.append(parsed)
    return tuple(filters)


def _parse_devices(at: _Reader, value: Any, path: Path) -> tuple[Selector, ...] | None:
    if value == "all":
        return None
    expected = "all, or a list of indices, PCI addresses, UUIDs and model globs"
    if isinstance(value, int) and not isinstance(value, bool):
        raise LayoutError(f"expected {expected}, found {_number(value)}: write [{_number(value)}]", path, at.line(path))
    selectors: list[Selector] = []
    for place, item in _items(at, value, path, expected):
        parsed = selector(item)
        if isinstance(parsed, str):
            raise LayoutError(parsed, place, at.line(place))
        if parsed in selectors:
            raise LayoutError(f"expected each device once, found {shown(item)} again", place, at.line(place))
        selectors.append(parsed)
    return tuple(selectors)


def _items(at: _Reader, value: Any, path: Path, expected: str) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, str):
        yield path, value
        return
    if not isinstance(value, Sequence) or not value:
        raise at.error(path, expected, value)
    for number, item in enumerate(value):
        yield (*path, number), item


def _parse_mig_devices(
    at: _Reader, entry: Mapping[str, Any], enabled: bool, path: Path
) -> tuple[tuple[ProfileName, int], ...]:
    value = entry.get("mig-devices")
    path = (*path, "mig-devices")
    if value is None and not enabled:
        return ()
    if not isinstance(value, Mapping):
        expected = "profile names with their counts (an empty mapping for MIG on without instances)"
        raise at.error(path, expected, value)
    if value and not enabled:
        raise at.error(path, "no instances where `mig-enabled` is false", value)
    parsed = tuple(_parse_count(at, name, count, path) for name, count in value.items())
    if parsed and not any(count for _, count in parsed):
        raise LayoutError(
            "expected a count above 0, found only zeros: write an empty mapping for MIG on without instances",
            path,
            at.line(path),
        )
    return tuple((name, count) for name, count in parsed if count)


def _parse_count(at: _Reader, name: Any, count: Any, path: Path) -> tuple[ProfileName, int]:
    place = (*path, _key(name))
    parsed = profile_name(name) if isinstance(name, str) else f"expected a profile name, found {shown(name)}"
    if isinstance(parsed, str):
        raise LayoutError(parsed, place, at.line(place))
    if isinstance(count, bool) or not isinstance(count, int):
        raise at.error(place, "a whole number of instances", count)
    if not 0 <= count <= MOST_INSTANCES:
        raise at.error(place, f"a count from 0 to {MOST_INSTANCES} (no board takes more than 8)", count)
    return parsed, count


def _overlap(one: Entry, other: Entry) -> str | None:
    """What both entries name on any machine, ``None`` when that depends on the machine (then it is checked there)."""
    if one.filters and other.filters and not set(one.filters) & set(other.filters):
        return None
    if one.devices is None and other.devices is None:
        return "all GPUs" if not (one.filters or other.filters) else "GPUs of one kind"
    if one.devices is None or other.devices is None:
        named = one.devices or other.devices or ()
        return f"device {named[0].text}"
    shared = [device for device in one.devices if device in other.devices]
    return f"device {shared[0].text}" if shared else None
