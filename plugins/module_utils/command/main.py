# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``gpu-layout``: the engine for a person at the node, and for the unit that runs at boot."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from ..gpu.inventory import read_inventory
from ..gpu.model import Inventory
from ..mig.apply import Outcome, apply, look
from ..mig.apply_gpu import EndState, GpuResult
from ..mig.apply_prepare import Host, Options, Prepared
from ..mig.apply_report import done_steps, planned_steps, result_report
from ..mig.checkpoint import CheckpointError
from ..mig.draw import draw
from ..mig.layout import LayoutError
from ..mig.lock import LockError
from ..mig.picture import draw_plan
from ..mig.report import report
from ..slurm.cpus import read_topology
from ..slurm.plan import GresRefusedError, plan_gres
from ..slurm.stored import Stored, StoredError, read_stored
from .boot import boot, tell_slurm
from .export import export
from .settings import LAYOUT, SETTINGS, Settings, SettingsError, read_entries, read_settings
from .slurm_conf import SlurmConfError
from .users import labels

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_ROLLED_BACK = 3
EXIT_BETWEEN = 4
EXIT_REBOOT = 5

_EPILOG = f"""\
exit codes:
  {EXIT_OK}  done, or nothing to do
  {EXIT_REFUSED}  refused: the layout does not fit, an instance is in use, a GPU can't be read, another change is
     going on, or Slurm's configuration means other devices; nothing was changed by this run
  {EXIT_USAGE}  wrong arguments, or a layout or settings file that can't be used
  {EXIT_ROLLED_BACK}  a GPU failed and was put back as it was; GPUs before it are as wanted, later ones untouched
  {EXIT_BETWEEN}  a GPU failed and could not be put back, or does not answer any more; the message says what exists,
     and the next run puts it straight
  {EXIT_REBOOT}  as wanted, but for a MIG mode that changes with the next reboot

files:
  /{LAYOUT}   the stored layout, in mig-parted's format
  /{SETTINGS}  how it is applied: config, on_busy, reset, partial, stop_services

examples:
  gpu-layout show                          what the GPUs are cut into
  gpu-layout plan new.yml --config all-1g  what would be done, without doing it
  gpu-layout apply new.yml --config all-1g
  gpu-layout apply                         the stored layout, once more
  gpu-layout export > current.yml          the present cut as a layout
"""


@dataclass(frozen=True)
class Console:
    """Where words go."""

    out: TextIO
    err: TextIO

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def fail(self, text: str) -> None:
        # One line each, so that the journal and the status of a unit show them whole.
        print(f"gpu-layout: {' '.join(text.split())}", file=self.err, flush=True)

    @property
    def ascii_only(self) -> bool:
        return (self.out.encoding or "ascii").lower().replace("-", "") not in ("utf8", "utf16", "utf32")


def main(arguments: Sequence[str] | None = None, host: Host | None = None, console: Console | None = None) -> int:
    """Run the command; its exit code."""
    options = parser().parse_args(arguments)
    base = Host() if host is None else host
    if options.root is not None:
        base = replace(base, root=options.root)
    console = console or Console(sys.stdout, sys.stderr)
    run: Callable[[argparse.Namespace, Host, Console], int] = options.run
    if threading.current_thread() is threading.main_thread():
        # systemd's way to end a unit that takes too long: it must roll back as an interrupt from the keyboard does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(options, base, console)
    except (LayoutError, SettingsError, StoredError) as error:
        console.fail(str(error))
        return EXIT_USAGE
    except (LockError, CheckpointError, GresRefusedError, SlurmConfError) as error:
        console.fail(str(error))
        return EXIT_REFUSED
    except KeyboardInterrupt:
        console.fail("interrupted; a change that had begun was taken back, see 'gpu-layout show'")
        return EXIT_REFUSED
    except BrokenPipeError:
        # Whoever read the output has seen enough (head, less).
        return EXIT_OK
    except OSError as error:
        console.fail(f"{error.filename or 'a file'}: {error.strerror or error}")
        return EXIT_REFUSED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="gpu-layout",
        description="See, plan and change what the GPUs of this machine are cut into (NVIDIA MIG).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace, Host, Console], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog="Exit codes: see gpu-layout --help."
        )
        command.set_defaults(run=run)
        return command

    command = add("show", _show, "draw the GPUs and what they are cut into")
    command.add_argument("--json", action="store_true", help="everything that is known of them, as JSON")

    command = add("plan", _plan, "say what applying a layout would do, without doing it")
    _layout_arguments(command)
    command.add_argument("--json", action="store_true", help="the plan as JSON")

    command = add("apply", _apply, "bring the GPUs to a layout; what fails is put back as it was")
    _layout_arguments(command)
    command.add_argument("--json", action="store_true", help="what was done, as JSON")

    command = add("gres", _gres, "print what Slurm is to be told about the devices that are here")
    command.add_argument("--json", action="store_true", help="with every device, as JSON")

    add("export", _export, "print the present cut as a layout in mig-parted's format")

    command = add("boot", _boot, "what gpu-layout.service runs: apply the stored layout and write gres.conf")
    command.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="for the driver to answer (default: %(default)g)"
    )
    return top


def _layout_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("layout", nargs="?", type=Path, help=f"the layout file (default: the stored one, /{LAYOUT})")
    command.add_argument("--config", metavar="NAME", help="which of its configurations (default: its only one)")
    command.add_argument("--on-busy", choices=("fail", "destroy"), help="instances in use: refuse, or try all the same")
    command.add_argument("--reset", choices=("never", "when_needed"), help="whether a GPU may be reset for its mode")
    command.add_argument(
        "--partial", choices=("fail", "skip"), help="GPUs that can't be read: refuse, or leave them out"
    )
    command.add_argument(
        "--stop-service",
        action="append",
        metavar="UNIT",
        dest="stop_services",
        help="stop it while a mode changes, and start it again; repeat for more",
    )


def _chosen(options: argparse.Namespace, host: Host) -> tuple[Path, str | None, Options]:
    """Layout file, configuration and options: the stored settings, and what the command line has instead."""
    settings = read_settings(host.root)
    path: Path = options.layout or host.root / LAYOUT
    config = options.config or (settings.config if options.layout is None else None)
    given = {
        name: getattr(options, name) for name in ("on_busy", "reset", "partial") if getattr(options, name) is not None
    }
    if options.stop_services is not None:
        given["stop_services"] = tuple(options.stop_services)
    return path, config, replace(settings.options, **given)


def _show(options: argparse.Namespace, host: Host, console: Console) -> int:
    inventory = read_inventory(host.root, host.load)
    if options.json:
        console.say(json.dumps(inventory.to_dict(), indent=2))
        return EXIT_OK
    console.say(draw(inventory, labels(inventory, host.load, host.proc), _width(), console.ascii_only))
    _tell_problems(inventory, console)
    return EXIT_OK


def _plan(options: argparse.Namespace, host: Host, console: Console) -> int:
    path, config, chosen = _chosen(options, host)
    prepared = look(read_entries(path, config), chosen, host)
    if options.json:
        data = report(prepared.plan, width=_width(), ascii_only=console.ascii_only)
        data |= {
            "steps": planned_steps(prepared),
            "refusals": list(prepared.refusals),
            "notes": list(prepared.notes),
        }
        console.say(json.dumps(data, indent=2))
        return EXIT_REFUSED if prepared.refusals else EXIT_OK
    _tell_prepared(prepared, console)
    if prepared.refusals:
        return EXIT_REFUSED
    if prepared.plan.outcomes:
        console.say(draw_plan(prepared.plan, _width(), console.ascii_only))
    steps = planned_steps(prepared)
    console.say("Steps:" if steps else "Nothing to do.")
    for step in steps:
        console.say(f"  {step['pci_address']}  {step['text']}")
    if any(prepared.steps_now(job) != job.steps for job in prepared.jobs):
        console.say("Then the machine must be rebooted, as no GPU may be reset (reset: never).")
    return EXIT_OK


def _apply(options: argparse.Namespace, host: Host, console: Console) -> int:
    path, config, chosen = _chosen(options, host)
    told = _teller(console, quiet=options.json)
    outcome = apply(read_entries(path, config), chosen, host, told)
    if options.json:
        console.say(json.dumps(_outcome_dict(outcome), indent=2))
    else:
        _tell_notes(outcome.prepared, console)
        if not outcome.results and not outcome.failed:
            console.say("Nothing to do.")
        elif outcome.after.gpus:
            console.say(draw(outcome.after, labels(outcome.after, host.load, host.proc), _width(), console.ascii_only))
    for failure in outcome.failures:
        console.fail(failure)
    return _exit_code(outcome)


def _boot(options: argparse.Namespace, host: Host, console: Console) -> int:
    settings: Settings = read_settings(host.root)
    unattended = replace(host, wait_for_services=False)
    outcome = boot(unattended, settings, options.wait, console.say)
    _tell_notes(outcome.prepared, console)
    for failure in outcome.failures:
        console.fail(failure)
    if outcome.failed:
        return _exit_code(outcome)
    # Whether slurmd may start depends on the devices there are, also while a mode waits for a reboot.
    console.say(tell_slurm(outcome.after, host.root))
    return EXIT_OK


def _gres(options: argparse.Namespace, host: Host, console: Console) -> int:
    stored = read_stored(host.root) or Stored()
    plan = plan_gres(read_inventory(host.root, host.load), read_topology(host.root), mode=stored.mode)
    if options.json:
        devices = [
            {"kind": one.kind, "type": one.type, "files": list(one.files), "uuid": one.uuid, "gpu": one.pci_address}
            for one in plan.devices
        ]
        data = {
            "gres": plan.gres,
            "gres_types": plan.gres_types,
            "accounting_tres": plan.accounting_tres,
            "devices": devices,
        }
        console.say(json.dumps(data, indent=2))
        return EXIT_OK
    console.say(f"Gres={plan.gres}")
    console.say(f"GresTypes={','.join(plan.gres_types)}")
    console.say(f"AccountingStorageTRES={','.join(plan.accounting_tres)}")
    return EXIT_OK


def _export(options: argparse.Namespace, host: Host, console: Console) -> int:
    exported = export(read_inventory(host.root, host.load))
    console.out.write(exported.text)
    console.out.flush()
    for trouble in exported.troubles:
        console.fail(trouble)
    return EXIT_REFUSED if exported.troubles else EXIT_OK


def _exit_code(outcome: Outcome) -> int:
    ends = {result.end for result in outcome.results}
    if ends & {EndState.BETWEEN, EndState.UNKNOWN}:
        return EXIT_BETWEEN
    if EndState.PREVIOUS in ends:
        return EXIT_ROLLED_BACK
    if outcome.failed:
        return EXIT_REFUSED
    return EXIT_REBOOT if outcome.reboot_required else EXIT_OK


def _outcome_dict(outcome: Outcome) -> dict[str, object]:
    return {
        "changed": outcome.changed,
        "reboot_required": outcome.reboot_required,
        "gpus": [result_report(result) for result in outcome.results],
        "steps": done_steps(outcome),
        "notes": list(outcome.prepared.notes),
        "failures": list(outcome.failures),
    }


def _teller(console: Console, quiet: bool) -> Callable[[GpuResult], None]:
    def tell(result: GpuResult) -> None:
        if not quiet and not result.failed:
            console.say(f"GPU {result.pci_address} {result.message}")

    return tell


def _tell_prepared(prepared: Prepared, console: Console) -> None:
    _tell_notes(prepared, console)
    for refusal in prepared.refusals:
        console.fail(refusal)


def _tell_notes(prepared: Prepared, console: Console) -> None:
    for note in prepared.notes:
        console.say(note)
    for address, differences in prepared.differences.items():
        for difference in differences:
            console.say(f"GPU {address}: {difference} (the driver is followed)")


def _tell_problems(inventory: Inventory, console: Console) -> None:
    for problem in inventory.problems:
        console.fail(problem.message)


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns
