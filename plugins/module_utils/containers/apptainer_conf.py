# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directives of apptainer.conf: which there are, what each may be, and the file they make.

Apptainer refuses a wrong value of a directive it knows, and says nothing about one that it does not know: a misspelt
"allow setuid" leaves the default in force. So what is not in this table is refused here. Apptainer's own
``apptainer config global --get DIRECTIVE`` knows the same names; the integration test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Version = tuple[int, int, int]

#: The oldest version whose directives are known.
OLDEST: Version = (1, 4, 0)


@dataclass(frozen=True)
class Directive:
    """One directive: *kind* of value, its *choices*, and the first version that knows it."""

    kind: Literal["bool", "number", "choice", "list", "text", "path"]
    choices: tuple[str, ...] = ()
    since: Version = OLDEST


_BOOL = Directive("bool")
_NUMBER = Directive("number")
_LIST = Directive("list")
_TEXT = Directive("text")
_PATH = Directive("path")

DIRECTIVES: dict[str, Directive] = {
    "allow setuid": _BOOL,
    "max loop devices": _NUMBER,
    "allow ipc ns": _BOOL,
    "allow pid ns": _BOOL,
    "allow user ns": _BOOL,
    "allow uts ns": _BOOL,
    "config passwd": _BOOL,
    "config group": _BOOL,
    "config resolv_conf": _BOOL,
    "mount proc": _BOOL,
    "mount sys": _BOOL,
    "mount dev": Directive("choice", ("yes", "no", "minimal")),
    "mount devpts": _BOOL,
    "mount home": _BOOL,
    "mount tmp": _BOOL,
    "mount hostfs": _BOOL,
    "mount slave": _BOOL,
    "bind path": _LIST,
    "user bind control": _BOOL,
    "enable fusemount": _BOOL,
    "enable overlay": Directive("choice", ("yes", "no", "try", "driver")),
    "enable underlay": Directive("choice", ("yes", "no", "preferred")),
    "sessiondir max size": _NUMBER,
    "limit container owners": _LIST,
    "limit container groups": _LIST,
    "limit container paths": _LIST,
    "allow container sif": _BOOL,
    "allow container encrypted": _BOOL,
    "allow container squashfs": _BOOL,
    "allow container extfs": _BOOL,
    "allow container dir": _BOOL,
    "allow setuid-mount encrypted": _BOOL,
    "allow setuid-mount squashfs": Directive("choice", ("yes", "no", "iflimited")),
    "allow setuid-mount extfs": _BOOL,
    "allow net users": _LIST,
    "allow net groups": _LIST,
    "allow net networks": _LIST,
    "allow netns paths": _LIST,
    "always use nv": _BOOL,
    "use nvidia-container-cli": _BOOL,
    "always use rocm": _BOOL,
    "root default capabilities": Directive("choice", ("full", "file", "no")),
    "memory fs type": Directive("choice", ("tmpfs", "ramfs")),
    "cni configuration path": _PATH,
    "cni plugin path": _PATH,
    "binary path": _TEXT,
    "mksquashfs procs": _NUMBER,
    "mksquashfs mem": _TEXT,
    "shared loop devices": _BOOL,
    "image driver": _TEXT,
    "download concurrency": _NUMBER,
    "download part size": _NUMBER,
    "download buffer size": _NUMBER,
    "systemd cgroups": _BOOL,
    # The file that comes with the package has "apptheus socket path" instead, which Apptainer itself does not know.
    "apptheus communication socket path": _PATH,
    "allow monitoring": _BOOL,
    "sync writable extfs": Directive("bool", since=(1, 6, 0)),
}


def parse_version(text: str) -> Version:
    """The numbers of a version as releases and packages have it: ``1.4.2``, ``1.4.5-2``, ``1:1.5.4~rc1``.

    :raises ValueError: it does not begin with three numbers.
    """
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)\.(\d+)(?!\d)", text)
    if found is None:
        raise ValueError(f"expected a version of Apptainer such as 1.5.4, found {text!r}")
    major, minor, patch = (int(number) for number in found.groups())
    return major, minor, patch


def known(version: Version | None) -> dict[str, Directive]:
    """What *version* knows; for ``None`` (it is not known which will be installed) what every version knows."""
    return {name: one for name, one in DIRECTIVES.items() if one.since <= (version or OLDEST)}


def problems(given: Mapping[str, object], version: Version | None) -> list[str]:
    """All that is wrong with the directives in *given*, a sentence each."""
    names = known(version)
    found = []
    if version is not None and version < OLDEST:
        return [
            f"expected Apptainer {_dotted(OLDEST)} or newer, whose apptainer.conf is known, found {_dotted(version)}; "
            "choose a newer version"
        ]
    for name, value in given.items():
        if name in names:
            found += [f"apptainer.conf: {text}" for text in _wrong_value(name, names[name], value)]
            continue
        since = DIRECTIVES[name].since if name in DIRECTIVES else None
        close = get_close_matches(str(name), names, n=1)
        if since is not None:
            hint = f"there is one from {_dotted(since)} on"
        elif close:
            hint = f"did you mean {close[0]!r}?"
        else:
            hint = "leave it out"
        which = f"Apptainer {_dotted(version)}" if version else "every version of Apptainer"
        found.append(f"apptainer.conf: expected a directive that {which} knows, found {name!r}; {hint}")
    return found


def render(given: Mapping[str, object]) -> str:
    """The lines for apptainer.conf, in the order of the table. What is not there has Apptainer's own default."""
    lines = []
    for name, directive in DIRECTIVES.items():
        if name not in given:
            continue
        value = given[name]
        if directive.kind != "list":
            lines.append(f"{name} = {_word(value)}")
        elif isinstance(value, (str, int)) or not isinstance(value, Sequence):
            raise TypeError(f"{name}: expected a list, found {value!r}")
        elif name == "bind path":
            # the only one that is repeated; empty, so that the default does not come back
            lines += [f"{name} = {item}" for item in value] or [f"{name} = "]
        else:
            lines.append(f"{name} = {', '.join(str(item) for item in value)}")
    return "".join(f"{line}\n" for line in lines)


def _wrong_value(name: str, directive: Directive, value: object) -> list[str]:
    expected = _expectation(directive)
    wrong = [f"expected for {name!r} {expected}, found {value!r}"]
    kind = directive.kind
    if kind == "list":
        if isinstance(value, str) or not isinstance(value, Sequence):
            return wrong
        broken = [item for item in value if not isinstance(item, str) or not _one_line(item) or "," in item]
        return [f"expected for {name!r} items without commas and line breaks, found {item!r}" for item in broken]
    if kind == "bool":
        return [] if value in (True, False, "yes", "no") and not _is_number(value) else wrong
    if kind == "number":
        if isinstance(value, str):
            return [] if re.fullmatch(r"\d{1,18}", value) else wrong
        return [] if _is_number(value) and isinstance(value, int) and value >= 0 else wrong
    if kind == "choice":
        return [] if not _is_number(value) and _word(value) in directive.choices else wrong
    if not isinstance(value, str) or not _one_line(value):
        return wrong
    if kind == "path" and value and not value.startswith("/"):
        return wrong
    return []


def _expectation(directive: Directive) -> str:
    if directive.kind == "choice":
        return " or ".join((", ".join(directive.choices[:-1]), directive.choices[-1]))
    return {
        "bool": "yes or no",
        "number": "a number, 0 or more",
        "list": "a list of texts",
        "text": "a text of one line",
        "path": "an absolute path",
    }[directive.kind]


def _word(value: object) -> str:
    """YAML reads yes and no as truth values."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _one_line(text: str) -> bool:
    return not re.search(r"[\x00-\x1f]", text)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
