# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``slurmd`` as the judge: what it detects and offers, compared with what was predicted.

``slurmd -G`` reads the node's real configuration and prints its devices without starting the daemon; it needs
slurm.conf and a running munged. Commands enter as a callable, so that a recorded output is as good as a running one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .binding import Binding
from .nodes import NodeHardware, parse_hardware

#: Seconds. Without slurm.conf ``slurmd`` would ask the network for a controller for ever.
TIMEOUT = 30

_TIMED_OUT = (124, 137)
_PREFIX = re.compile(r"^slurmd(?:-\S+)?: ")
_RECORD = re.compile(
    r"GRES\[(?P<name>[^\]]+)\] Type:(?P<type>\S+) Count:(?P<count>\d+) Cores\(\d+\):(?P<cores>\S*) +"
    r"Links:(?P<links>\S+) Flags:(?P<flags>\S*) File:(?P<file>\S+) UniqueId:(?P<uuid>\S+)"
)
# How it tells of what it was not asked to detect, at the end of any output.
_LISTED = re.compile(
    r"Gres Name=(?P<name>\S+) Type=(?P<type>\S+) Count=(?P<count>\d+) (?:.* )?File=(?P<file>\S+)"
    r"(?: Cores=(?P<cores>\S+))?(?: CoreCnt=\d+)? Links=(?P<links>\S+)"
)
_BAD_FILE = re.compile(r"error: (?:_set_gres_device_desc: )?(?:stat\()?(/dev/[^\s):]+)\)?:? (.+)")
_FINAL = "Final merged GRES list:"
_IGNORED = "The following autodetected GPUs are being ignored:"
_DISCARDED = "Discarding the following config-only GPU"
_TROUBLES = (
    (
        "configured with nvml functionality, but that lib wasn't found",
        "slurmd can't load the NVIDIA library libnvidia-ml.so.1: install the driver's library package (libnvidia-ml1)",
    ),
    (
        "cannot find gpu plugin for gpu/nvml",
        "slurmd lacks its plugin for AutoDetect=nvml: install Debian's package slurm-wlm-nvml-plugin (contrib)",
    ),
    (
        "Munge encode failed",
        "munged is not running or unreachable: start it (systemctl start munge); it needs /etc/munge/munge.key",
    ),
)


@dataclass(frozen=True)
class Completed:
    """How a command ended."""

    rc: int
    stdout: str
    stderr: str


Runner = Callable[[Sequence[str]], Completed]


class SlurmdError(Exception):
    """``slurmd`` isn't there or did not do as asked; the message says what to do."""


class SlurmdMissingError(SlurmdError):
    """``slurmd`` is not installed."""


@dataclass(frozen=True)
class Record:
    """A device in the output of ``slurmd -G``; ``None`` where it prints ``(null)``."""

    type: str | None
    file: str | None
    uuid: str | None
    cores: str | None
    links: str | None


@dataclass(frozen=True)
class GresReport:
    """*offered*: what ``slurmd`` will register. *ignored*: detected, no entry left. *discarded*: configured, not found.

    *errors*: what else went wrong, in ``slurmd``'s words or, where they are known, in better ones.
    """

    offered: tuple[Record, ...]
    ignored: tuple[Record, ...] = ()
    discarded: tuple[Record, ...] = ()
    errors: tuple[str, ...] = ()


def read_gres(
    run: Runner, slurmd: str = "slurmd", node_name: str | None = None, options: Sequence[str] = ()
) -> GresReport:
    """Ask ``slurmd -G``.

    :param node_name: of the node in slurm.conf, where it isn't the host name.
    :param options: more of them, ``-Z`` for one.
    :raises SlurmdError: see there.
    """
    # -v adds UUIDs to the list
    completed = _run(run, [slurmd, "-G", "-v", *(["-N", node_name] if node_name else []), *options])
    return parse_gres_report(f"{completed.stdout}\n{completed.stderr}")


def read_hardware(run: Runner, slurmd: str = "slurmd") -> NodeHardware:
    """Ask ``slurmd -C``, which needs neither configuration nor munge.

    :raises SlurmdError: see there.
    """
    completed = _run(run, [slurmd, "-C"])
    try:
        return parse_hardware(completed.stdout)
    except ValueError as error:
        raise SlurmdError(str(error)) from error


def verify(
    run: Runner,
    bindings: Sequence[Binding],
    *,
    slurmd: str = "slurmd",
    node_name: str | None = None,
    options: Sequence[str] = (),
    static: bool = False,
) -> list[str]:
    """How ``slurmd -G`` differs from the prediction; see :func:`compare`.

    :raises SlurmdError: it can't be asked.
    """
    return compare(bindings, read_gres(run, slurmd, node_name, options), static=static)


def locate(name: str) -> str:
    """Path of an executable, ``/usr/sbin`` included, which an ordinary user's search path lacks.

    :raises SlurmdMissingError: there is none.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise SlurmdMissingError(f"expected the command {name}, found none: install Debian's package slurmd")
    return path


def _run(run: Runner, command: list[str]) -> Completed:
    completed = run(["timeout", "--kill-after=5", str(TIMEOUT), *command])
    words = " ".join(command)
    if completed.rc in _TIMED_OUT:
        raise SlurmdError(
            f"{words} did not end within {TIMEOUT} s. Without /etc/slurm/slurm.conf it waits for a controller to serve "
            f"one; its last words: {_last_line(completed)}"
        )
    if completed.rc != 0:
        known = "".join(f". {advice}" for phrase, advice in _TROUBLES if phrase in completed.stderr)
        raise SlurmdError(f"{words} failed with exit code {completed.rc}: {_last_line(completed)}{known}")
    return completed


def _last_line(completed: Completed) -> str:
    lines = [line for line in (completed.stderr or completed.stdout).splitlines() if line.strip()]
    return _PREFIX.sub("", lines[-1]).strip() if lines else "nothing"


def parse_gres_report(text: str) -> GresReport:
    """Read the output of ``slurmd -G -v``.

    Without detection there is no list of what was merged; then the devices that it listed are those that it offers.
    """
    lists: dict[str, list[Record]] = {"offered": [], "ignored": [], "discarded": []}
    errors: list[str] = []
    current: str | None = None
    listed: list[Record] = []
    merged = False
    for raw in text.splitlines():
        line = _PREFIX.sub("", raw).strip()
        plain = _LISTED.search(line)
        if plain is not None and plain["name"] == "gpu":
            listed.append(_record(plain))
        record = _RECORD.search(line)
        if record is not None:
            if current is not None and record["name"] == "gpu":
                lists[current].append(_record(record))
            continue
        current = None
        if _FINAL in line:
            current, merged = "offered", True
        elif _IGNORED in line:
            current = "ignored"
        elif _DISCARDED in line:
            current = "discarded"
        else:
            errors += [advice for phrase, advice in _TROUBLES if phrase in line]
            bad = _BAD_FILE.search(line)
            if bad is not None:
                errors.append(f"the device file {bad[1]} can't be used: {bad[2]}")
            if line.startswith("error: Bad GRES configuration"):
                errors.append(f"slurmd can't read the node's Gres: {line.removeprefix('error: ')}")
    return GresReport(
        tuple(lists["offered"] if merged else listed),
        tuple(lists["ignored"]),
        tuple(lists["discarded"]),
        tuple(dict.fromkeys(errors)),
    )


def _record(match: re.Match[str]) -> Record:
    def value(key: str) -> str | None:
        found = match.groupdict().get(key)
        return None if found in ("(null)", "") else found

    return Record(value("type"), value("file"), value("uuid"), value("cores"), value("links"))


def compare(bindings: Sequence[Binding], report: GresReport, *, static: bool = False) -> list[str]:
    """How the real ``slurmd`` differs from the prediction, a sentence for each difference; empty when it doesn't.

    Types, device files and UUIDs must be the same. Cores and links are not compared: they come from the driver there
    and from sysfs here, and no job gets a wrong device by them.

    :param static: Slurm was told the devices (AutoDetect=off): it knows no UUIDs, and the order of the devices, by
        which the TaskProlog finds them, must be the same too.
    """
    predicted = {
        binding.device.file: (binding.label, None if static else binding.device.unique_id) for binding in bindings
    }
    real = {record.file or "(no file)": (record.type, record.uuid) for record in report.offered}
    differences = list(report.errors)
    for file in [*predicted, *(file for file in real if file not in predicted)]:
        if file not in real:
            differences.append(f"expected {_told(predicted[file])} at {file}, slurmd does not offer it")
        elif file not in predicted:
            differences.append(f"slurmd offers {_told(real[file])} at {file}, expected nothing there")
        elif predicted[file] != real[file]:
            differences.append(f"expected {_told(predicted[file])} at {file}, slurmd has {_told(real[file])}")
    differences += [
        f"slurmd finds no device for the configured type {one.type or '(none)'}" for one in report.discarded
    ]
    if static and not differences and list(predicted) != list(real):
        differences.append(f"expected the devices in the order {', '.join(predicted)}, slurmd has {', '.join(real)}")
    return list(dict.fromkeys(differences))


def _told(value: tuple[str | None, str | None]) -> str:
    kind, uuid = value
    return f"type {_type(kind)} with UUID {uuid or '(none)'}"


def _type(kind: str | None) -> str:
    return kind or "(none)"
