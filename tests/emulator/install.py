# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the emulated driver into the root file system of a node."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from . import spec

_HERE = Path(__file__).resolve().parent
_LIBRARY = "libnvidia-ml.so.1"
_PACKAGE = "opt/emulated-gpu/emulator"
_UNIT = "etc/systemd/system/emulated-gpu.service"
_WANTED = "etc/systemd/system/multi-user.target.wants/emulated-gpu.service"
_CONFIG = "etc/emulated-gpu.conf"
_STATE = "var/lib/emulated-gpu/state.json"
#: Beside the tests themselves.
_ONLY_FOR_TESTS = ("conftest.py", "nvml_helpers.py")
_INSTALLED_LIBRARY = f"usr/local/lib/{_LIBRARY}"


@cache
def build_library() -> Path:
    """Build the library if it is not up to date, looked at once per process; its path.

    :raises RuntimeError: make or the compiler failed; the message has their last line.
    """
    done = subprocess.run(["make", "-C", str(_HERE)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise RuntimeError(
            f"building {_LIBRARY} failed (make: exit {done.returncode}, {last}): are gcc and make installed?"
        )
    return _HERE / "build" / _LIBRARY


def install(node_root: Path, gpus: str, arguments: Sequence[str] = ()) -> None:
    """Install into *node_root*, so that its next boot has these GPUs. A machine installed before is replaced.

    Library, package, an enabled unit ordered before slurmd, the specification. *arguments* are further ones for
    ``serve``. In a node that runs already: ``systemctl daemon-reload && systemctl restart emulated-gpu``.

    :raises ValueError: *gpus* is wrong, or an argument has a character that the unit's environment file can't carry.
    :raises RuntimeError: the library can't be built.
    """
    spec.parse(gpus)
    for argument in arguments:
        if not re.fullmatch(r"[\w@%+=:,./-]+", argument):
            raise ValueError(f"expected an argument without spaces or quotes, found {argument!r}: leave them out")
    library = build_library()
    package = node_root / _PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for source in sorted([*_HERE.glob("*.py"), *_HERE.glob("*.toml"), _HERE / "README.md"]):
        if not source.name.startswith("test_") and source.name not in _ONLY_FOR_TESTS:
            shutil.copy2(source, package)
    _copy(library, node_root / _INSTALLED_LIBRARY)
    _copy(_HERE / "emulated-gpu.service", node_root / _UNIT)
    config = node_root / _CONFIG
    config.write_text(f"EMULATED_GPUS={gpus}\nEMULATED_GPU_ARGUMENTS={' '.join(arguments)}\n")
    wanted = node_root / _WANTED
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if not wanted.is_symlink():
        wanted.symlink_to(f"/{_UNIT}")
    (node_root / _STATE).unlink(missing_ok=True)


def uninstall(node_root: Path) -> None:
    """Remove what :func:`install` put there."""
    for path in (_INSTALLED_LIBRARY, _UNIT, _WANTED, _CONFIG, _STATE):
        (node_root / path).unlink(missing_ok=True)
    shutil.rmtree(node_root / _PACKAGE, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy under another name first: a process that has the old file loaded keeps it whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, fresh)
    fresh.chmod(0o644)
    fresh.replace(target)


def main() -> int:
    parser = argparse.ArgumentParser(description="Install the emulated driver into a node's root file system.")
    parser.add_argument("node_root", type=Path)
    parser.add_argument("gpus", help="machine specification")
    parser.add_argument("arguments", nargs="*", help="further arguments of serve, after --")
    options = parser.parse_args()
    try:
        install(options.node_root, options.gpus, options.arguments)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
