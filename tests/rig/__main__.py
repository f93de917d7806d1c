# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m rig``: nodes by hand. ``tests/`` must be on the module path (``PYTHONPATH=tests``)."""

from __future__ import annotations

import argparse
import os
import sys
import time

from .node import IMAGES, Node, all_nodes
from .process import RigError


def main(arguments: list[str]) -> int:
    """Do what *arguments* say and return the exit code."""
    options = _parse(arguments)
    try:
        return int(_COMMANDS[options.command](options))
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m rig", description="Disposable Debian 13 nodes on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot a fresh node")
    up.add_argument("name")
    up.add_argument("--ip", required=True, help="an address of 10.213.97.0/24")
    up.add_argument("--gpus", default="none", help="emulated GPUs, for example h100-80=3g.40gb:1g.10gb*2 (default: none)")
    up.add_argument("--image", choices=IMAGES, default="debian")
    commands.add_parser("down", help="remove a node").add_argument("name")
    commands.add_parser("shell", help="a root shell in a node").add_argument("name")
    commands.add_parser("status", help="the nodes of this machine")
    return parser.parse_args(arguments)


def _up(options: argparse.Namespace) -> int:
    start = time.monotonic()
    Node(options.name, options.ip, options.image).up(gpus=options.gpus)
    print(f"{options.name} is up at {options.ip} ({time.monotonic() - start:.1f} s)")
    return 0


def _down(options: argparse.Namespace) -> int:
    # an address is needed to make a node, not to remove one, not even one left behind before its address was written
    known = {node.name: node for node in all_nodes()}
    known.get(options.name, Node(options.name, "")).down()
    return 0


def _shell(options: argparse.Namespace) -> int:
    known = {node.name: node for node in all_nodes()}
    if options.name not in known or not known[options.name].is_up():
        raise RigError(f"expected {options.name} to be up, found {', '.join(known) or 'no node'}")
    command = known[options.name].shell_command()
    os.execvp(command[0], command)


def _status(_: argparse.Namespace) -> int:
    for node in all_nodes():
        print(f"{node.name:<20} {node.ip:<16} {node.image:<11} {'up' if node.is_up() else 'left behind: take it down'}")
    return 0


_COMMANDS = {"up": _up, "down": _down, "shell": _shell, "status": _status}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
