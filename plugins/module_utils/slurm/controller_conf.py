# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller's own slurm.conf, which belongs to the site: what it has, and what it lacks for the fleet's files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .fleet_change import read_nodes
from .gres import GresEntry, accounting_tres, gres_types
from .hostlist import fold
from .publish import INCLUDE, conf_files

_CGROUP = re.compile(r"(?m)^[ \t]*([A-Za-z]+)[ \t]*=[ \t]*([^\s#]+)")
_PARTITION = re.compile(r"(?im)^[ \t]*partitionname[ \t]*=")


class ConfError(ValueError):
    """The fleet's files can't be used with this slurm.conf; the text says what to change in it."""


@dataclass(frozen=True)
class ControllerConf:
    """*texts*: slurm.conf and what it includes, but not nodes.conf. *settings* has lower-case keys."""

    path: Path
    texts: Mapping[Path, str]
    includes_nodes: bool
    settings: Mapping[str, str]
    nodes: frozenset[str]

    @property
    def database(self) -> bool:
        """Whether slurmdbd keeps accounts. Only then slurmctld starts with GPUs in AccountingStorageTRES."""
        return self.settings.get("accountingstoragetype", "").lower() == "accounting_storage/slurmdbd"

    def says(self, key: str) -> list[str]:
        """The value of a list, empty where the key isn't there."""
        return [one for one in self.settings.get(key.lower(), "").split(",") if one]


def read_conf(path: Path, nodes_conf: Path) -> ControllerConf:
    """Read it. *nodes_conf* is the fleet's file, which need not be there yet.

    :raises ConfError: there is no slurm.conf, or a line about nodes can't be read.
    :raises PublishError: a file that it includes can't be read.
    """
    if not path.is_file():
        raise ConfError(
            f"expected the controller's {path}, found none. What the cluster is called, its partitions and its "
            "policies are the site's to say; docs/controller.md has one to begin with"
        )
    texts = dict(conf_files(path, skip=nodes_conf))
    settings: dict[str, str] = {}
    nodes: set[str] = set()
    for file, text in texts.items():
        try:
            found, words = read_nodes(text)
        except ValueError as error:
            raise ConfError(f"{file}: {error}") from error
        settings |= words
        nodes |= set(found)
    included = any(path.parent / found == nodes_conf for text in texts.values() for found in INCLUDE.findall(text))
    return ControllerConf(path, texts, included, settings, frozenset(nodes))


def check_included(conf: Path, files: Mapping[Path, str | None]) -> None:
    """Check that Slurm will read each of *files*, as they will be.

    :raises ConfError: one is neither slurm.conf nor gres.conf, nor included.
    :raises PublishError: a file can't be read.
    """
    there = {path: text for path, text in files.items() if text is not None}
    read = {path for path, _ in conf_files(conf, instead=there)} | {conf.with_name("gres.conf")}
    for path in there:
        if path not in read:
            raise ConfError(f"{conf} on this machine does not include {path}: all controllers need the same slurm.conf")


def with_include(text: str, nodes_conf: str) -> str:
    """slurm.conf with a line that includes *nodes_conf*, before its partitions."""
    line = f"# What the compute nodes offer; written by hpc.compute.controller.\nInclude {nodes_conf}\n"
    first = _PARTITION.search(text)
    if first is None:
        return text + ("" if not text or text.endswith("\n") else "\n") + line
    return text[: first.start()] + line + text[first.start() :]


def check_conf(
    conf: ControllerConf, nodes: Sequence[str], entries: Sequence[GresEntry]
) -> tuple[bool, bool, list[str]]:
    """Whether nodes.conf needs ``GresTypes``, whether ``AccountingStorageTRES``, and warnings.

    :param nodes: the nodes of nodes.conf.
    :param entries: all that they offer.
    :raises ConfError: slurmctld would refuse both together, or not know a GRES.
    """
    twice = sorted(conf.nodes.intersection(nodes))
    if twice:
        raise ConfError(
            f"{conf.path} or a file that it includes has lines NodeName= for nodes that nodes.conf is to describe: "
            f"{fold(twice)}. slurmctld exits at a node that is there twice: take these lines out"
        )
    types, own_types = gres_types(entries), conf.says("GresTypes")
    lacking = [one for one in types if own_types and one not in own_types]
    if lacking:
        raise ConfError(
            f"{conf.path} has GresTypes={','.join(own_types)}, and the nodes offer {', '.join(lacking)}, too: add it "
            "there, or take the line out, then nodes.conf has it"
        )
    warnings = _unconstrained(conf) if any(one.name == "gpu" for one in entries) else []
    tres, own_tres = accounting_tres(entries), conf.says("AccountingStorageTRES")
    if conf.database and own_tres:
        left_out = [one for one in tres if one not in own_tres]
        if left_out:
            warnings.append(
                f"{conf.path} has an AccountingStorageTRES of its own, without {', '.join(left_out)}: what jobs use of "
                "them isn't accounted for. Add them, or take the line out, then nodes.conf has all of them"
            )
    return not own_types, conf.database and not own_tres, warnings


def _unconstrained(conf: ControllerConf) -> list[str]:
    """Nodes that are served the controller's configuration get its cgroup.conf, too, whose defaults confine nothing."""
    if "enable_configless" not in conf.says("SlurmctldParameters"):
        return []
    path = conf.path.with_name("cgroup.conf")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    confines = {key.lower(): value.lower() for key, value in _CGROUP.findall(text)}.get("constraindevices") == "yes"
    if confines and "task/cgroup" in conf.says("TaskPlugin"):
        return []
    found = f"{'ConstrainDevices=yes' if confines else 'no such line'}, TaskPlugin={','.join(conf.says('TaskPlugin'))}"
    return [
        f"expected ConstrainDevices=yes in {path} and task/cgroup in TaskPlugin of {conf.path}, found {found}: on "
        "configless nodes, which take both from here, a job can open the GPUs of other jobs. See docs/controller.md"
    ]
