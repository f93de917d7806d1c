# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m rig``: the commands of ``./run``, and nodes by hand.

``tests/`` must be on the module path (``PYTHONPATH=tests``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from image import build

from . import checks, demo, inventory
from .node import IMAGES, Node, all_nodes
from .process import RigError


def main(arguments: list[str]) -> int:
    """Do what *arguments* say and return the exit code."""
    options = _parse(arguments)
    try:
        return int(options.do(options) or 0)
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run", description="The project's rig; './run help' is the short form.")
    commands = parser.add_subparsers(dest="command", required=True)

    show = commands.add_parser("demo", help="a Slurm GPU node from nothing, with jobs on it")
    show.add_argument("--gpus", metavar="SPEC", default=demo.DEFAULT_GPUS, help="emulated GPUs (default: %(default)s)")
    show.add_argument("--fresh", action="store_true", help="forget what is cached first")
    show.add_argument("action", nargs="?", choices=("up", "down", "shell", "status"), default="up")
    show.set_defaults(do=_demo)

    test = commands.add_parser("test", help="all checks and tests")
    test.add_argument("what", nargs="?", choices=("all", "vm"), default="all")
    test.set_defaults(do=lambda options: checks.run_all() if options.what == "all" else checks.run_vm())

    image = commands.add_parser("image", help="the image of a compute node, without Packer")
    image.add_argument("--output", type=Path, default=build.OUTPUT, metavar="FILE", help="default: %(default)s")
    image.add_argument("--disk-size", default="20G", metavar="SIZE", help="default: %(default)s")
    image.add_argument("--vars", type=Path, action="append", default=[], metavar="FILE", help="Ansible variables")
    image.add_argument(
        "--kernel-options",
        default="quiet",
        metavar="WORDS",
        help="for the kernel's command line (default: %(default)s)",
    )
    image.add_argument("--base", action="store_true", help="only the Debian that it begins with, for Packer")
    image.set_defaults(do=_image)

    up = commands.add_parser("up", help="boot a fresh node")
    up.add_argument("name")
    up.add_argument("--ip", required=True, help="an address of 10.213.97.0/24")
    up.add_argument("--gpus", default="none", help="emulated GPUs, for example h100-80=1g.10gb*2 (default: none)")
    up.add_argument("--image", choices=IMAGES, default="debian")
    up.add_argument("--share", metavar="FOLDER", type=Path, help="a folder that it has as /srv/shared, as others do")
    up.set_defaults(do=_up)
    for name, does, text in (("down", _down, "remove a node"), ("shell", _shell, "a root shell in a node")):
        command = commands.add_parser(name, help=text)
        command.add_argument("name")
        command.set_defaults(do=does)
    cluster = commands.add_parser("inventory", help="write the Ansible inventory of a cluster of nodes that are up")
    cluster.add_argument("folder", type=Path)
    cluster.add_argument("--controller", required=True, metavar="NAME", nargs="+", help="the primary first")
    cluster.add_argument("--compute", required=True, metavar="NAME", nargs="+")
    cluster.set_defaults(do=_inventory)
    commands.add_parser("status", help="the nodes of this machine").set_defaults(do=_status)
    return parser.parse_args(arguments)


def _demo(options: argparse.Namespace) -> None:
    if options.action == "up":
        demo.up(options.gpus, options.fresh)
    else:
        {"down": demo.down, "shell": demo.shell, "status": demo.status}[options.action]()


def _image(options: argparse.Namespace) -> None:
    make = build.base if options.base else build.build
    make(build.Wanted(options.output, options.disk_size, options.kernel_options, options.vars))


def _up(options: argparse.Namespace) -> None:
    start = time.monotonic()
    Node(options.name, options.ip, options.image).up(gpus=options.gpus, share=options.share)
    print(f"{options.name} is up at {options.ip} ({time.monotonic() - start:.1f} s)")


def _down(options: argparse.Namespace) -> None:
    # an address is needed to make a node, not to remove one, nor one left behind before its address was written
    known = {node.name: node for node in all_nodes()}
    known.get(options.name, Node(options.name, "")).down()


def _shell(options: argparse.Namespace) -> None:
    command = _running(options.name).shell_command()
    os.execvp(command[0], command)  # noqa: S606  # no shell of this machine is wanted


def _inventory(options: argparse.Namespace) -> None:
    first, *others = [_running(name) for name in options.controller]
    print(inventory.write(options.folder, first, [_running(name) for name in options.compute], others))


def _running(name: str) -> Node:
    known = {node.name: node for node in all_nodes() if node.is_up()}
    if name not in known:
        raise RigError(f"expected node {name} to be up, found {', '.join(known) or 'no node'}")
    return known[name]


def _status(_: argparse.Namespace) -> None:
    for node in all_nodes():
        print(f"{node.name:<20} {node.ip:<16} {node.image:<11} {'up' if node.is_up() else 'left behind: take it down'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
