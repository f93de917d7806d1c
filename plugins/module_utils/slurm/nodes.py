# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hardware part of a node's line in slurm.conf, as ``slurmd -C`` tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeHardware:
    """*sockets* are those of all boards together; *real_memory* is in MiB. *name* is the machine's own host name.

    *gres* is what ``slurmd`` detects with the gres.conf that is there, under full type names; may be empty.
    """

    name: str
    cpus: int
    boards: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    real_memory: int
    gres: str = ""


def parse_hardware(text: str) -> NodeHardware:
    """Read the output of ``slurmd -C``.

    :raises ValueError: it has no line of a node, or that line lacks a number.
    """
    line = next((line for line in text.splitlines() if line.startswith("NodeName=")), None)
    if line is None:
        raise ValueError(f"expected a line NodeName=... from slurmd -C, found {text.strip()[:200]!r}")
    fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)

    def number(*keys: str) -> int:
        for key in keys:
            if fields.get(key, "").isdigit():
                return int(fields[key])
        raise ValueError(f"expected a number {' or '.join(keys)} from slurmd -C, found {line!r}")

    boards = number("Boards") if "Boards" in fields else 1
    sockets = number("SocketsPerBoard") * boards if "SocketsPerBoard" in fields else number("Sockets")
    return NodeHardware(
        name=fields["NodeName"],
        cpus=number("CPUs"),
        boards=boards,
        sockets=sockets,
        cores_per_socket=number("CoresPerSocket"),
        threads_per_core=number("ThreadsPerCore"),
        real_memory=number("RealMemory"),
        gres=fields.get("Gres", ""),
    )


def node_line(
    hardware: NodeHardware, *, name: str | None = None, gres: str = "", real_memory: int | None = None
) -> str:
    """A ``NodeName=`` line of slurm.conf: the hardware, and what it offers when *gres* isn't empty.

    :param name: of the node in Slurm, where it isn't the machine's.
    :param real_memory: MiB to offer to jobs, where it isn't all that was found.
    """
    words = {
        "NodeName": name or hardware.name,
        "CPUs": hardware.cpus,
        "Boards": hardware.boards,
        "SocketsPerBoard": hardware.sockets // hardware.boards,
        "CoresPerSocket": hardware.cores_per_socket,
        "ThreadsPerCore": hardware.threads_per_core,
        "RealMemory": hardware.real_memory if real_memory is None else real_memory,
        **({"Gres": gres} if gres else {}),
    }
    return " ".join(f"{key}={value}" for key, value in words.items())
