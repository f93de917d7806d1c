# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is looked at on this node and how strictly: a JSON file, in which everything has a default."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .model import Mode
from .xids import Action

SETTINGS = Path("etc/hpc-compute/node-health.json")

#: The checks in the order in which their faults are named, the most telling first, and their modes by default.
CHECKS: dict[str, Mode] = {
    "driver": "drain",  # answers, in time
    "gpus": "drain",  # none lost, none that the driver can't read
    "xid": "drain",  # in the kernel log
    "ecc": "drain",  # memory errors, rows to be remapped
    "layout": "drain",  # cut as the stored layout says
    "devices": "drain",  # device files are there
    "gres": "drain",  # devices are those that Slurm expects
    "readonly": "drain",  # no file system that went read-only
    "mounts": "drain",  # there and answering
    "disk": "drain",  # room
    "memory": "drain",  # the machine's own
    "clock": "warn",  # synchronised
}
_MODES = ("drain", "warn", "off")
_ACTIONS = ("drain", "warn", "ignore")


class SettingsError(Exception):
    """The settings can't be used; the text names what is wrong."""


@dataclass(frozen=True)
class Disk:
    """A path and what must be free where it is. Percent of the space an ordinary user may have; 0 is no limit."""

    path: str
    free_percent: float = 5.0
    free_mib: float = 0.0
    free_inodes_percent: float = 5.0


@dataclass(frozen=True)
class Settings:
    """See docs/node_health.md for what each means.

    *resume*: checks whose drains are taken back when everything is fine again. *kernel_log*: ``journal``, or a file
    with lines of a kernel log. *epilog_kill*: whether processes that a job left on a GPU are killed.
    """

    checks: Mapping[str, Mode] = field(default_factory=dict)
    disks: tuple[Disk, ...] = (Disk("/"), Disk("/tmp"), Disk("/var/tmp"))  # noqa: S108  # looked at, not used
    mounts: tuple[str, ...] = ()
    xids: Mapping[int, Action] = field(default_factory=dict)
    uncorrected_errors: int = 0
    memory_available_mib: int = 0
    driver_timeout: float = 30.0
    mount_timeout: float = 10.0
    resume: tuple[str, ...] = ()
    kernel_log: str = "journal"
    epilog_kill: bool = False
    epilog_wait: float = 10.0
    epilog_memory_mib: int = 1024

    def mode(self, check: str) -> Mode:
        return self.checks.get(check, CHECKS[check])


def read_settings(root: Path = Path("/")) -> Settings:
    """The settings below *root*; the defaults where there is no file.

    :raises SettingsError: there is one that can't be used.
    """
    path = root / SETTINGS
    try:
        return parse_settings(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise SettingsError(f"{path}: {error}") from error


def parse_settings(text: str) -> Settings:
    """Settings from JSON.

    :raises SettingsError: it is none, or has something in it that means nothing.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"expected JSON: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"expected an object with settings, found {text.strip()[:50]!r}")
    settings = Settings()
    for key, value in data.items():
        if key not in _READERS:
            raise SettingsError(f"expected only the keys {', '.join(_READERS)}, found {key!r}")
        settings = replace(settings, **{key: _READERS[key](key, value)})
    return settings


def _modes(key: str, value: object) -> dict[str, Mode]:
    modes: dict[str, Mode] = {}
    for name, mode in _object(key, value).items():
        if name not in CHECKS:
            raise SettingsError(f"{key}: expected checks of {', '.join(CHECKS)}, found {name!r}")
        modes[name] = _one_of(f"{key}.{name}", mode, _MODES)
    return modes


def _xids(key: str, value: object) -> dict[int, Action]:
    actions: dict[int, Action] = {}
    for number, what in _object(key, value).items():
        if not number.isdecimal():
            raise SettingsError(f"{key}: expected numbers of Xids, found {number!r}")
        actions[int(number)] = _one_of(f"{key}.{number}", what, _ACTIONS)
    return actions


def _disks(key: str, value: object) -> tuple[Disk, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{key}: expected a list, found {value!r}")
    disks = []
    for entry in value:
        fields = dict(_object(key, entry))
        path = _path(key, fields.pop("path", None))
        limits = {}
        for name, limit in fields.items():
            if name not in ("free_percent", "free_mib", "free_inodes_percent"):
                raise SettingsError(
                    f"{key}: expected path, free_percent, free_mib and free_inodes_percent, found {name!r}"
                )
            limits[name] = _number(f"{key}.{name}", limit)
            if name.endswith("_percent") and limits[name] > 100:
                raise SettingsError(f"{key}.{name}: expected percent, found {limit!r}")
        disks.append(Disk(path, **limits))
    return tuple(disks)


def _paths(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{key}: expected a list of paths, found {value!r}")
    return tuple(_path(key, entry) for entry in value)


def _resume(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SettingsError(f"{key}: expected a list of checks, found {value!r}")
    unknown = [name for name in value if name not in (*CHECKS, "all")]
    if unknown:
        raise SettingsError(f"{key}: expected checks of {', '.join(CHECKS)}, or all, found {unknown[0]!r}")
    return tuple(value)


def _path(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise SettingsError(f"{key}: expected absolute paths, found {value!r}")
    return value


def _kernel_log(key: str, value: object) -> str:
    return "journal" if value == "journal" else _path(key, value)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise SettingsError(f"{key}: expected a number that is not negative, found {value!r}")
    return float(value)


def _whole(key: str, value: object) -> int:
    number = _number(key, value)
    if number != int(number):
        raise SettingsError(f"{key}: expected a whole number, found {value!r}")
    return int(number)


def _seconds(most: float) -> Callable[[str, object], float]:
    def read(key: str, value: object) -> float:
        number = _number(key, value)
        if not 0 < number <= most:
            # Slurm kills a health check after 60 seconds.
            raise SettingsError(f"{key}: expected more than 0 and at most {most:g} seconds, found {value!r}")
        return number

    return read


def _boolean(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{key}: expected true or false, found {value!r}")
    return value


def _object(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{key}: expected an object, found {value!r}")
    return value


def _one_of(key: str, value: object, words: tuple[str, ...]) -> Any:
    if value not in words:
        raise SettingsError(f"{key}: expected {' or '.join(words)}, found {value!r}")
    return value


_READERS: dict[str, Callable[[str, object], Any]] = {
    "checks": _modes,
    "disks": _disks,
    "mounts": _paths,
    "xids": _xids,
    "uncorrected_errors": _whole,
    "memory_available_mib": _whole,
    "driver_timeout": _seconds(30),
    "mount_timeout": _seconds(30),
    "resume": _resume,
    "kernel_log": _kernel_log,
    "epilog_kill": _boolean,
    "epilog_wait": _seconds(60),
    "epilog_memory_mib": _whole,
}
