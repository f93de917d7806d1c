# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the emulated NVIDIA driver."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import picture, staging
from .client import DriverError, control
from .daemon import serve


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (DriverError, OSError, ValueError) as error:
        print(f"emulated driver: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    socket_default = Path(os.environ.get("EMULATED_GPU_SOCKET") or "/run/emulated-gpu/driver.sock")
    parser = argparse.ArgumentParser(
        prog="emulator", description="Emulated NVIDIA driver for tests and demonstrations."
    )
    parser.add_argument("--socket", type=Path, default=socket_default, help="the daemon's socket (%(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the daemon")
    command.add_argument(
        "--gpus", required=True, metavar="SPEC", help="[COUNTx]BOARD[=SLICE[@START][*N]:...],... or none"
    )
    command.add_argument("--socket", type=Path, default=argparse.SUPPRESS, help="the socket to serve")
    command.add_argument("--driver-version", metavar="V", help="default: the oldest that all boards work with")
    command.add_argument(
        "--state", type=Path, metavar="FILE", help="what survives a reboot; a start with it is a reboot"
    )
    command.add_argument("--stage", type=Path, metavar="ROOT", help="keep the driver's files below ROOT in step")
    command.add_argument("--seed", type=int, default=0, help="another one gives other UUIDs and instance ids")
    command.add_argument("--shuffle-minors", action="store_true", help="device minors differ from NVML's indices")
    command.add_argument("--numa", action="append", default=[], metavar="CPUS", help="CPU list of a NUMA node; repeat")
    command.add_argument("--kernel-driver", default="nvidia", metavar="NAME", help="nouveau, vfio-pci, none: no NVML")
    command.add_argument("--privileged-uid", type=int, metavar="UID", help="who may manage MIG (default: root, owner)")
    command.add_argument("--parent-fd", type=int, help=argparse.SUPPRESS)
    command.set_defaults(run=serve)

    command = commands.add_parser("stage", help="write the driver's files again")
    command.add_argument("--root", type=Path, default=Path("/"))
    command.set_defaults(run=lambda options: _control(options, "stage", root=str(options.root.resolve())))

    command = commands.add_parser("unstage", help="remove the driver's files; needs no daemon")
    command.add_argument("--root", type=Path, default=Path("/"))
    command.set_defaults(run=lambda options: staging.unstage(options.root.resolve()))

    command = commands.add_parser("show", help="the machine as it is")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_show)

    command = commands.add_parser("busy", help="let a process hold a GPU or an instance until it ends")
    command.add_argument("target", metavar="GPU[/GI[/CI]]")
    command.add_argument("pid", type=int)
    command.set_defaults(run=lambda options: _control(options, "busy", target=options.target, pid=options.pid))

    command = commands.add_parser("idle", help="release a GPU or an instance")
    command.add_argument("target", metavar="GPU[/GI[/CI]]")
    command.set_defaults(run=lambda options: _control(options, "idle", target=options.target))

    command = commands.add_parser("fault", help="let an NVML function fail, kill its caller, or hang")
    command.add_argument("function", help="name or shell pattern, nvmlDeviceCreateGpuInstance*")
    kinds = command.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--error", metavar="CODE|NAME")
    kinds.add_argument("--kill", nargs="?", const="before", choices=("before", "after"), help="its effect (before)")
    kinds.add_argument("--hang", action="store_true", help="until the faults are cleared")
    command.add_argument("--times", type=int, help="default: 1 for --kill, else until cleared")
    command.add_argument("--skip", type=int, default=0, metavar="N", help="let N matching calls pass first")
    command.add_argument("--gpu", help="only calls about this GPU")
    command.set_defaults(run=_fault)

    command = commands.add_parser("faults", help="show or clear the faults")
    command.add_argument("action", choices=("show", "clear"))
    command.set_defaults(run=_faults)

    command = commands.add_parser("leak", help="let memory of a GPU or an instance stay in use by nobody")
    command.add_argument("target", metavar="GPU[/GI]")
    command.add_argument("mib", type=int)
    command.set_defaults(run=lambda options: _control(options, "leak", target=options.target, mib=options.mib))

    command = commands.add_parser("memory-errors", help="let a GPU have counted errors of its memory")
    command.add_argument("gpu")
    command.add_argument("--uncorrected", type=int, default=0, metavar="N", help="since the driver was loaded")
    command.add_argument("--pending", action="store_true", help="a row waits to be remapped (a page to be retired)")
    command.add_argument("--failed", action="store_true", help="a row could not be remapped")
    command.set_defaults(run=_memory_errors)

    command = commands.add_parser("reboot", help="what a reboot does to the GPUs")
    command.set_defaults(run=lambda options: _control(options, "reboot"))

    command = commands.add_parser("reset", help="reset a GPU: a pending mode comes into force")
    command.add_argument("gpu")
    command.set_defaults(run=lambda options: _control(options, "reset", gpu=options.gpu))

    command = commands.add_parser("lose", help="let a GPU fall off the bus, until a reboot")
    command.add_argument("gpu")
    command.set_defaults(run=lambda options: _control(options, "lose", gpu=options.gpu))
    return parser


def _control(options: argparse.Namespace, command: str, **fields: Any) -> Any:
    return control(options.socket, command, **fields)


def _memory_errors(options: argparse.Namespace) -> None:
    fields = {"uncorrected": options.uncorrected, "pending": options.pending, "failed": options.failed}
    _control(options, "memory-errors", gpu=options.gpu, **fields)


def _show(options: argparse.Namespace) -> None:
    machine = _control(options, "show")
    print(json.dumps(machine, indent=2) if options.json else picture.draw(machine))


def _fault(options: argparse.Namespace) -> None:
    kind = "hang" if options.hang else f"kill-{options.kill}" if options.kill else "error"
    times = 1 if options.times is None and options.kill else options.times
    fields = {"function": options.function, "kind": kind, "times": times, "skip": options.skip, "gpu": options.gpu}
    if options.error is not None:
        fields["code"] = options.error
    _control(options, "fault", **fields)


def _faults(options: argparse.Namespace) -> None:
    if options.action == "clear":
        _control(options, "faults-clear")
    else:
        print(json.dumps(_control(options, "show")["faults"], indent=2))


if __name__ == "__main__":
    sys.exit(main())
