# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``node-health``: for Slurm's HealthCheckProgram, Prolog and Epilog, for monitoring, and for a person.

Slurm drains a node whose prolog fails. So a fault of the node has an exit code of its own, and the small programs that
Slurm runs take every other one, this program's own mistakes included, for success.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import syslog
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from ..command.gres import write
from ..slurm.control import Completed, Runner
from ..slurm.scontrol import Scontrol, ScontrolError
from .hooks import epilog, prolog
from .model import Report
from .run import Node, acknowledge, look
from .service import drain, resume
from .settings import SETTINGS, Settings, SettingsError, parse_settings, read_settings

EXIT_HEALTHY = 0
EXIT_USAGE = 2
EXIT_UNHEALTHY = 10
EXIT_UNKNOWN = 11

#: The latest result, as ``check --json`` prints it.
RESULT = Path("run/hpc-compute/node-health.json")

#: Longer than slurmctld takes when it is well, and short enough for the minute that Slurm gives a health check.
_SCONTROL_TIMEOUT = 10

#: What a change of the layout that ends at this very moment leaves for a moment: it counts if it is still there then.
_PASSING = frozenset({"layout", "devices", "gres"})
_MOMENT_S = 3.0

_EPILOG = f"""\
exit codes:
  {EXIT_HEALTHY}   nothing was found for which the node is to be drained
  {EXIT_USAGE}   wrong arguments, or settings that can't be used
  {EXIT_UNHEALTHY}  the node is not fit for jobs
  {EXIT_UNKNOWN}  something could not be checked, and nothing else was found
  any other: a mistake of this program

files:
  /{SETTINGS}  what is looked at, and how strictly
  /{RESULT}  the latest result

examples:
  node-health check             what is wrong with this node
  node-health check --json      the same for a program
  node-health acknowledge       the Xids so far are dealt with (a GPU was reset)
"""


def run_command(command: Sequence[str]) -> Completed:
    """Run a command of Slurm; one that takes too long is ended, with the exit code that timeout(1) has for it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SCONTROL_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"no answer in {_SCONTROL_TIMEOUT} s")
    except OSError as error:
        return Completed(127, "", f"{command[0]}: {error.strerror or error}")
    return Completed(done.returncode, done.stdout, done.stderr)


def to_journal(text: str) -> None:
    """Say a line to the system log."""
    syslog.openlog("node-health", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, " ".join(text.split()))


@dataclass(frozen=True)
class Outside:
    """The ways out of this program, which tests replace."""

    node: Node = field(default_factory=lambda: Node(""))
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    run: Runner = run_command
    log: Callable[[str], None] = to_journal
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    sleep: Callable[[float], None] = time.sleep

    @property
    def slurm(self) -> Scontrol:
        # One try: the next check comes soon, and a job must not wait.
        return Scontrol(self.run, patience_s=0.0)


def main(arguments: Sequence[str] | None = None, outside: Outside | None = None) -> int:
    """Run the command; its exit code."""
    options = parser().parse_args(arguments)
    outside = outside or Outside()
    node = outside.node
    if options.root is not None:
        node = replace(node, root=options.root)
    name = options.node or outside.environ.get("SLURMD_NODENAME") or node.name or socket.gethostname().partition(".")[0]
    outside = replace(outside, node=replace(node, name=name))
    try:
        code: int = options.run(options, outside)
    except SettingsError as error:
        print(f"node-health: {error}", file=outside.err)
        return EXIT_USAGE
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="node-health",
        description="Whether this machine is fit to run jobs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    top.add_argument("--node", help="its name in Slurm (default: what slurmd says, else the short host name)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("check", help="look at everything")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument(
        "--drain", action="store_true", help="drain the node for what is found, or resume it where that is set up"
    )
    command.set_defaults(run=_check)

    command = commands.add_parser("prolog", help="what Slurm's Prolog runs: are the job's device files there?")
    command.set_defaults(run=_prolog)

    command = commands.add_parser("epilog", help="what Slurm's Epilog runs: are the job's devices free again?")
    command.set_defaults(run=_epilog)

    command = commands.add_parser("acknowledge", help="the Xids in the kernel log so far are dealt with")
    command.set_defaults(run=_acknowledge)

    command = commands.add_parser("settings", help="say what is wrong with a file of settings")
    command.add_argument("file", type=Path)
    command.set_defaults(run=_settings)
    return top


def _check(options: argparse.Namespace, outside: Outside) -> int:
    settings = read_settings(outside.node.root)
    report = look(outside.node, settings)
    if options.drain and not report.healthy and set(report.faulty) <= _PASSING:
        outside.sleep(_MOMENT_S)
        report = look(outside.node, settings)
    if options.json:
        print(json.dumps(report.to_dict(), indent=2), file=outside.out)
    else:
        print(_text(report), file=outside.out)
    if options.drain:
        news = _tell_what_is_new(report, outside)
        _act(report, settings, outside, news)
    if not report.healthy:
        return EXIT_UNHEALTHY
    return EXIT_HEALTHY if report.complete else EXIT_UNKNOWN


def _text(report: Report) -> str:
    lines = []
    for check in report.checks:
        lines.append(f"{check.status:<8} {check.name}")
        lines += [f"         {one.level}: {one}" for one in check.findings]
    return "\n".join(lines)


def _tell_what_is_new(report: Report, outside: Outside) -> bool:
    """Write the result down, and say what was not in the one before; whether there was anything."""
    path = outside.node.root / RESULT
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    before = _findings_in(path)
    news = [
        f"{finding.level} of {check.name}: {finding}"
        for check in report.checks
        for finding in check.findings
        if (check.name, finding.level, finding.subject) not in before
    ]
    for line in news:
        outside.log(line)
    try:
        write(path, text)
    except OSError as error:
        outside.log(f"{path} could not be written: {error.strerror or error}")
    return bool(news)


def _findings_in(path: Path) -> set[tuple[str, str, str]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {
            (str(check["name"]), str(one["level"]), str(one["subject"]))
            for check in data["checks"]
            for one in check["findings"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # the first one since boot, or none of ours: all is new


def _act(report: Report, settings: Settings, outside: Outside, news: bool) -> None:
    """Drain or resume. What was left as it was is said once, and not at every check."""
    try:
        if report.healthy:
            done, changed = resume(outside.slurm, report, settings.resume)
        else:
            done, changed = drain(outside.slurm, report.node, report.reason)
    except ScontrolError as error:
        done, changed = f"Slurm was not told: {error}", True
    if done and (changed or news):
        outside.log(done)


def _prolog(_options: argparse.Namespace, outside: Outside) -> int:
    return _drained_for(prolog(outside.node, outside.environ, outside.log), outside)


def _epilog(_options: argparse.Namespace, outside: Outside) -> int:
    settings = read_settings(outside.node.root)
    return _drained_for(epilog(outside.node, settings, outside.environ, outside.log), outside)


def _drained_for(reason: str, outside: Outside) -> int:
    """Drain before Slurm does, so that the reason says more than that a program failed."""
    if not reason:
        return EXIT_HEALTHY
    try:
        outside.log(drain(outside.slurm, outside.node.name, reason)[0] or reason)
    except ScontrolError as error:
        outside.log(f"{reason}: Slurm was not told, and drains the node itself: {error}")
    return EXIT_UNHEALTHY


def _acknowledge(_options: argparse.Namespace, outside: Outside) -> int:
    acknowledge(outside.node.root, time.time())
    outside.log("the Xids in the kernel log so far were acknowledged")
    return EXIT_HEALTHY


def _settings(options: argparse.Namespace, outside: Outside) -> int:
    try:
        parse_settings(options.file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{options.file}: {error}") from error
    return EXIT_HEALTHY
