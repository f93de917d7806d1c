# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what every node says of itself to the controller's files: nodes.conf and gres.conf.

Nodes that are alike share a line. The files depend on nothing but the nodes: the same nodes make the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .gres import GresSyntaxError, accounting_tres, gres_types, parse_gres
from .hostlist import expand, fold, sort_key

#: Where a node keeps gres.conf when its own counts: with names of the site's own, or shared GPUs.
LOCAL_GRES_CONF = "/etc/hpc-compute/gres.conf"

_WORD = re.compile(r"([A-Za-z_]+)=(\"[^\"]*\"|\S+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
#: What differs between nodes that are alike, in the order in which it is written.
_OWN = ("NodeName", "NodeHostname", "NodeAddr")
_HEAD = "# Managed by Ansible (hpc.compute.slurm_nodes): changes made here are lost."
_LOCAL_NODES = re.compile(r"(?m)^# Made on the nodes (\S+)\. ")


class FleetError(ValueError):
    """The nodes can't be described; the text names the hosts and says why."""


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself. *words*: keys and values of its line but its names. *own*: its names.

    *local*: its own gres.conf counts, also where the controller serves the configuration.
    """

    name: str
    own: tuple[tuple[str, str], ...]
    words: tuple[tuple[str, str], ...]
    gres: str
    local: bool = False


@dataclass(frozen=True)
class FleetFiles:
    """*nodes_conf* and *gres_conf* are texts; *nodes* are the names, in order."""

    nodes_conf: str
    gres_conf: str
    gres_types: list[str]
    accounting_tres: list[str]
    nodes: list[str]


def read_facts(host: str, facts: Mapping[str, object]) -> NodeFacts:
    """What the role ``slurm_compute`` published of *host*: ``node_line``, and ``autodetect`` and ``shared`` if present.

    :raises FleetError: it has no line of a node.
    """
    line = facts.get("node_line")
    words = _WORD.findall(line) if isinstance(line, str) and not line.lstrip().startswith("#") else []
    given = dict(words)
    name = given.get("NodeName", "")
    if not _NAME.fullmatch(name):
        raise FleetError(
            f"{host}: expected node_line to be the line of one node (NodeName=...), found {line!r}. Run the role "
            "hpc.compute.slurm_compute there first; in check mode it knows the line once slurmd is installed"
        )
    local = facts.get("autodetect", "nvml") == "off" or bool(facts.get("shared"))
    return NodeFacts(
        name=name,
        own=tuple((key, given[key]) for key in _OWN if key in given),
        words=tuple((key, value) for key, value in words if key not in _OWN),
        gres=given.get("Gres", ""),
        local=local,
    )


def is_ours(text: str) -> bool:
    """Whether :func:`fleet_files` made the text, or it says nothing."""
    return not text.strip() or text.startswith(_HEAD)


def read_files(nodes_conf: str, gres_conf: str) -> dict[str, NodeFacts]:
    """The nodes of files that :func:`fleet_files` made, also where lines were divided since.

    :raises FleetError: a list of hosts can't be read, or lists that belong together differ in length.
    """
    listed = _LOCAL_NODES.search(gres_conf)
    local = set(_hosts(listed[1])) if listed else set()
    nodes: dict[str, NodeFacts] = {}
    for line in nodes_conf.splitlines():
        words = _WORD.findall(line) if line.startswith("NodeName=") else []
        lists = {key: _hosts(value) for key, value in words if key in _OWN}
        names = lists.get("NodeName", [])
        if any(len(hosts) != len(names) for hosts in lists.values()):
            raise FleetError(f"expected as many addresses as names on the line {line!r}")
        others = tuple((key, value) for key, value in words if key not in _OWN)
        for place, name in enumerate(names):
            own = tuple((key, hosts[place]) for key, hosts in lists.items())
            nodes[name] = NodeFacts(name, own, others, dict(others).get("Gres", ""), name in local)
    return nodes


def _hosts(text: str) -> list[str]:
    try:
        return expand(text)
    except ValueError as error:
        raise FleetError(str(error)) from error


def fleet_files(
    nodes: Iterable[NodeFacts],
    *,
    memory_tolerance: float = 2.0,
    settings: bool = True,
    accounting: bool = False,
    before: Mapping[str, NodeFacts] | None = None,
) -> FleetFiles:
    """Make the files.

    :param memory_tolerance: percent by which ``RealMemory`` of nodes that share a line may differ; the line has the
        least, as machines of one kind differ by a few MiB. A node that has more than its line says is in order.
    :param settings: write ``GresTypes`` too.
    :param accounting: write ``AccountingStorageTRES`` too, for clusters with slurmdbd. Without one slurmctld exits at
        it ("slurmdbd is required to run with TRES gres/gpu").
    :param before: nodes as they stand in the present files. Their ``RealMemory`` stays where it is as good: what a node
        finds differs a little after each change of its kernel.
    :raises FleetError: two hosts are the same node, or a ``Gres`` can't be read.
    """
    ordered = sorted(nodes, key=lambda one: sort_key(one.name))
    for one, other in pairwise(ordered):
        if one.name == other.name:
            raise FleetError(
                f"two hosts say that they are the node {one.name}: give one another slurm_compute_node_name"
            )
    entries = []
    for gres in sorted({one.gres for one in ordered}):
        try:
            entries += parse_gres(gres)
        except GresSyntaxError as error:
            which = next(one.name for one in ordered if one.gres == gres)
            raise FleetError(f"node {which}: {error}") from error
    types, tres = gres_types(entries), accounting_tres(entries)
    lines = [_HEAD]
    lines += [f"GresTypes={','.join(types)}"] if settings and types else []
    lines += [f"AccountingStorageTRES={','.join(tres)}"] if accounting and tres else []
    known = {name: dict(one.words).get("RealMemory", "") for name, one in (before or {}).items()}
    lines += [_line(group, words) for words, group in _groups(ordered, memory_tolerance, known)]
    return FleetFiles(
        nodes_conf="\n".join([*lines, ""]),
        gres_conf=_gres_conf(ordered),
        gres_types=types,
        accounting_tres=tres,
        nodes=[one.name for one in ordered],
    )


def _groups(
    ordered: Sequence[NodeFacts], tolerance: float, known: Mapping[str, str]
) -> list[tuple[tuple[tuple[str, str], ...], list[NodeFacts]]]:
    """Nodes that share a line, in order, and the words of that line, by the first node of each."""
    alike: dict[tuple[object, ...], list[NodeFacts]] = {}
    for one in ordered:
        plain = tuple(word for word in one.words if word[0] != "RealMemory")
        alike.setdefault((plain, tuple(key for key, _ in one.own)), []).append(one)
    groups = []
    for members in alike.values():
        for memory, group in _by_memory(members, tolerance, known):
            words = tuple((key, memory if key == "RealMemory" else value) for key, value in group[0].words)
            groups.append((words, group))
    return sorted(groups, key=lambda one: sort_key(one[1][0].name))


def _by_memory(
    members: Sequence[NodeFacts], tolerance: float, known: Mapping[str, str]
) -> Iterable[tuple[str, list[NodeFacts]]]:
    sizes = {one.name: dict(one.words).get("RealMemory", "") for one in members}
    if not all(size.isdecimal() for size in sizes.values()):
        for size in dict.fromkeys(sizes.values()):
            yield size, [one for one in members if sizes[one.name] == size]
        return

    def good(least: int, size: int) -> bool:
        return least <= size <= least * (1 + tolerance / 100)

    line: dict[str, int] = {}
    for one in members:
        previous = known.get(one.name, "")
        if previous.isdecimal() and good(int(previous), int(sizes[one.name])):
            line[one.name] = int(previous)
    kept = sorted(set(line.values()), reverse=True)
    limit: dict[int, int] = {}
    for number in sorted({int(sizes[one.name]) for one in members if one.name not in line}):
        # the least of a group stands for all that are at most so much above it
        limit[number] = next((least for least in (*kept, *limit.values()) if good(least, number)), number)
    for one in members:
        line.setdefault(one.name, limit.get(int(sizes[one.name]), 0))
    for least in dict.fromkeys(line[one.name] for one in members):
        yield str(least), [one for one in members if line[one.name] == least]


def _line(group: Sequence[NodeFacts], words: Iterable[tuple[str, str]]) -> str:
    names = [dict(one.own) for one in group]
    own = [(key, fold(one[key] for one in names)) for key, _ in group[0].own]
    return " ".join(f"{key}={value}" for key, value in [*own, *words])


def _gres_conf(ordered: Sequence[NodeFacts]) -> str:
    """For configless clusters: detection on the nodes that have GPUs, and their own file where that counts."""
    detecting = [one.name for one in ordered if one.gres and not one.local]
    local = [one.name for one in ordered if one.local]
    lines = [_HEAD]
    if detecting:
        lines.append(f"NodeName={fold(detecting)} AutoDetect=nvml")
    if local:
        lines += [
            f"# Made on the nodes {fold(local)}. Slurm waits a minute for a missing file, so the controller and",
            "# the other nodes need it too, empty.",
            f"Include {LOCAL_GRES_CONF}",
        ]
    return "\n".join([*lines, ""])
