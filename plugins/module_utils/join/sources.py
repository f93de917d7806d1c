# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine made from an image was told about its cluster, and by whom.

Three sources, the first that has a key counts:

* ``/etc/hpc-compute/join.conf``: lines ``key = value``, as cloud-init's ``write_files`` makes it;
* systemd credentials ``hpc-compute.KEY`` (firmware, ``systemd.set_credential``), which only root can read;
* arguments of the kernel ``hpc_compute.KEY=value``, which every user of the machine can read.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

FILE = Path("etc/hpc-compute/join.conf")
CMDLINE = Path("proc/cmdline")
KEYS = ("controllers", "munge_key", "munge_key_file", "node_name", "dynamic")

_PREFIX = "hpc_compute."
_CREDENTIAL = "hpc-compute."
#: munge takes keys of 32 bytes at least and 1024 at most (mungekey(8)).
_KEY_BYTES = (32, 1024)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_BOOLEANS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


_T = TypeVar("_T")


class SourceError(Exception):
    """What was given can't be used; the text says where it stands and what is wrong, and never shows a key."""


@dataclass(frozen=True)
class Told:
    """What is known. *controllers*: ``host`` or ``host:port``. *munge_key*: the bytes of the key, ``None`` where nobody
    gave one. *node_name*: empty for the host's. *dynamic*: whether the controller does not know the node beforehand.
    *public*: the key came from a place that every user can read.
    """

    controllers: tuple[str, ...] = ()
    munge_key: bytes | None = None
    node_name: str = ""
    dynamic: bool = False
    public: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys without which the node can't join."""
        keys = {"controllers": self.controllers, "munge_key": self.munge_key}
        return tuple(name for name, value in keys.items() if not value)


def read(root: Path = Path("/"), credentials: Path | None = None) -> Told:
    """Everything that the sources below *root* say; *credentials* is the directory that systemd gives a unit.

    :raises SourceError: one of them can't be read or has something that means nothing.
    """
    sources: list[tuple[str, Mapping[str, str]]] = [
        (f"/{FILE}", _from_file(root / FILE)),
        ("the systemd credential", _from_credentials(credentials)),
        ("the kernel's argument", _from_kernel(root / CMDLINE)),
    ]
    values: dict[str, tuple[str, str]] = {}
    for place, found in sources:
        for key, value in found.items():
            values.setdefault(key, (place, value))
    munge_key, public = _munge_key(values, root)
    return Told(
        controllers=_read(values, "controllers", _controllers, ()),
        munge_key=munge_key,
        node_name=_read(values, "node_name", _node_name, ""),
        dynamic=_read(values, "dynamic", _boolean, False),
        public=public,
    )


def _from_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read: {error}") from error
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        key, separator, value = (part.strip() for part in content.partition("="))
        if not separator or key not in KEYS:
            raise SourceError(
                f"{path}, line {number}: expected 'key = value' with a key of {', '.join(KEYS)}, found {key[:40]!r}"
            )
        if key in found:
            raise SourceError(f"{path}, line {number}: {key} stands there twice")
        found[key] = value
    return found


def _from_credentials(folder: Path | None) -> dict[str, str]:
    if folder is None or not folder.is_dir():
        return {}
    paths = {key: folder / f"{_CREDENTIAL}{key}" for key in KEYS}
    return {key: path.read_text(encoding="utf-8").strip() for key, path in paths.items() if path.exists()}


def _from_kernel(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    words = shlex.split(path.read_text(encoding="utf-8", errors="replace"))
    pairs = (word.removeprefix(_PREFIX).partition("=") for word in words if word.startswith(_PREFIX))
    found = {}
    for key, _, value in pairs:
        if key not in KEYS:
            raise SourceError(f"the kernel's argument {_PREFIX}KEY: expected {', '.join(KEYS)}, found {key[:40]!r}")
        found[key] = value
    return found


def _read(values: Mapping[str, tuple[str, str]], key: str, parse: Callable[[str], _T], default: _T) -> _T:
    if key not in values:
        return default
    place, value = values[key]
    try:
        return parse(value)
    except ValueError as error:
        raise SourceError(f"{key} of {place}: {error}") from error


def _controllers(value: str) -> tuple[str, ...]:
    found = tuple(value.replace(",", " ").split())
    for one in found:
        if not _HOST.fullmatch(one):
            raise ValueError(f"expected host or host:port, several with commas, found {one!r}")
    return found


def _node_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"expected a name of letters, digits and hyphens, found {value!r}")
    return value


def _boolean(value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise ValueError(f"expected yes or no, found {value!r}")
    return _BOOLEANS[value.lower()]


def _munge_key(values: Mapping[str, tuple[str, str]], root: Path) -> tuple[bytes | None, bool]:
    """The key, and whether it came from where every user can read it."""
    if "munge_key" in values:
        place, text = values["munge_key"]
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise SourceError(f"munge_key of {place}: expected base64, found something else ({error})") from error
        public = place == "the kernel's argument"
    elif "munge_key_file" in values:
        place, path = values["munge_key_file"]
        try:
            key = (root / path.lstrip("/")).read_bytes()
        except FileNotFoundError:
            return None, False  # as a mount that is not there yet: it is missing
        except OSError as error:
            raise SourceError(f"munge_key_file of {place}: {path} can't be read: {error.strerror}") from error
        public = False
    else:
        return None, False
    least, most = _KEY_BYTES
    if not least <= len(key) <= most:
        raise SourceError(f"the munge key of {place}: expected {least} to {most} bytes, found {len(key)}")
    return key, public
