# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``apptainer --nv`` takes into a container, against what the installed NVIDIA driver has.

Apptainer binds the libraries that nvliblist.conf names and the dynamic linker knows. A driver younger than the list has
libraries that it lacks, and a program in the container then fails where the driver opens one of them. A library belongs
to the driver if its file carries the driver's version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

#: One of these tells the driver's version by the name of the file behind it, whether the driver is loaded or not.
_LEADING = ("libcuda.so.1", "libnvidia-ml.so.1")
#: Around what the role adds to the list.
BEGIN, END = "# BEGIN hpc.compute", "# END hpc.compute"
_ADDED = re.compile(rf"(?ms)^{BEGIN}$.*?(?:^{END}$|\Z)")
#: Without them a CUDA program does not start.
NEEDED = ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so")


@dataclass(frozen=True)
class Libraries:
    """Of the driver that is installed.

    *version* is empty where no library tells one; *names* are its libraries as nvliblist.conf would name them,
    *unlisted* those that it lacks; *missing* are needed by CUDA and not installed.
    """

    version: str
    names: tuple[str, ...]
    unlisted: tuple[str, ...]
    missing: tuple[str, ...]


def parse_list(text: str) -> set[str]:
    """The names in nvliblist.conf as the package has it: binaries, libraries (to ``.so``) and files.

    What stands between :data:`BEGIN` and :data:`END` was added after a comparison, and would hide it from the next.
    """
    return set(_names(_ADDED.sub("", text)))


def added(text: str) -> list[str]:
    """The names between :data:`BEGIN` and :data:`END`."""
    return _names("".join(_ADDED.findall(text)))


def parse_cache(text: str) -> dict[str, list[str]]:
    """What ``ldconfig -p`` prints, as name to paths (one for each architecture)."""
    found: dict[str, list[str]] = {}
    for name, path in re.findall(r"(?m)^\s+(\S+) \(.*\) => (\S+)$", text):
        found.setdefault(name, []).append(path)
    return found


def compare(
    cache: str, listed: Iterable[str], resolve: Callable[[str], str] = lambda path: str(Path(path).resolve())
) -> Libraries:
    """Compare ``ldconfig -p`` with the names in nvliblist.conf; *resolve* follows links to the file itself."""
    by_name = parse_cache(cache)
    version = _version(by_name, resolve)
    if not version:
        return Libraries("", (), (), ())
    names = {
        stem
        for name, paths in by_name.items()
        if (stem := _stem(name)) and any(resolve(path).endswith(f".so.{version}") for path in paths)
    }
    return Libraries(
        version,
        tuple(sorted(names)),
        tuple(sorted(names - set(listed))),
        tuple(one for one in NEEDED if one not in names),
    )


def _version(by_name: dict[str, list[str]], resolve: Callable[[str], str]) -> str:
    for leading in _LEADING:
        for path in by_name.get(leading, []):
            found = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)*)$", resolve(path))
            if found:
                return found[1]
    return ""


def _stem(name: str) -> str:
    """``libcuda.so`` of ``libcuda.so.1``."""
    found = re.match(r"(\S+?\.so)(?:\.|$)", name)
    return found[1] if found else ""


def _names(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
