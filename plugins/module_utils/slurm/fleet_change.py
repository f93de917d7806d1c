# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new nodes.conf means for a running cluster: what the controller must do, and which nodes must be idle first.

Seen with Slurm 24.11.5: ``scontrol reconfigure`` takes over added, removed and changed nodes, and new ``GresTypes``: it
starts a new controller with the new files and keeps the old one when that fails. It also kills each job with GPUs on a
node whose count of GPUs changed, up or down ("gres/gpu count mismatch on node"), and takes each job from a node whose
cores changed ("due to node failure"), so such nodes must be drained first. Other memory leaves jobs alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .gres import parse_gres
from .hostlist import expand

_WORD = re.compile(r"([A-Za-z_]+)\s*=\s*(\"[^\"]*\"|\S+)")
#: Keys of nodes.conf beside those of nodes, which a reconfiguration takes over.
_TAKEN_OVER = ("grestypes", "accountingstoragetres")
#: Keys of a node's line that say where it is and not what jobs get there.
#: Memory that is less than what jobs have been given is made good when they end.
_HARMLESS = ("nodeaddr", "nodehostname", "feature", "weight", "reason", "state", "bcastaddr", "port", "realmemory")


@dataclass(frozen=True)
class FleetChange:
    """*action*: what the controller has to do. Nodes by name, sorted as they stand in the files:

    *added*, *removed*; *grown*: new ``Gres`` has nothing less and something more, so the node must be ready before the
    controller hears of it; *shrunk*: the reverse, the controller first; *mixed*: both, so the node can't have jobs
    meanwhile. *drain*: on these, jobs would be killed or lose what they have.
    """

    action: Literal["none", "reconfigure", "restart"]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()


def classify(old: str, new: str) -> FleetChange:
    """Compare two texts of nodes.conf.

    :raises ValueError: a host list or a ``Gres`` in one of them can't be read.
    """
    before, settings_before = read_nodes(old)
    after, settings_after = read_nodes(new)
    common = [name for name in after if name in before]
    ways = {name: way(before[name].get("gres", ""), after[name].get("gres", "")) for name in common}
    removed = tuple(name for name in before if name not in after)
    changed = [name for name in common if before[name] != after[name]]
    others = {
        key
        for key in {*settings_before, *settings_after}
        if settings_before.get(key) != settings_after.get(key) and key not in _TAKEN_OVER
    }
    if others:
        action: Literal["none", "reconfigure", "restart"] = "restart"
    elif changed or removed or len(after) != len(common) or settings_before != settings_after:
        action = "reconfigure"
    else:
        action = "none"
    return FleetChange(
        action,
        added=tuple(name for name in after if name not in before),
        removed=removed,
        grown=tuple(name for name in common if ways[name] == "grow"),
        shrunk=tuple(name for name in common if ways[name] == "shrink"),
        mixed=tuple(name for name in common if ways[name] == "mixed"),
        drain=(*removed, *(name for name in changed if _matters(before[name], after[name]))),
    )


def way(old: str, new: str) -> Literal["same", "grow", "shrink", "mixed"]:
    """How one node's ``Gres`` becomes another.

    :raises ValueError: one of them can't be read.
    """
    before, after = _counts(old), _counts(new)
    less = any(after[key] < count for key, count in before.items())
    more = any(before[key] < count for key, count in after.items())
    if less and more:
        return "mixed"
    return "shrink" if less else "grow" if more else "same"


def _counts(gres: str) -> Counter[tuple[str, str | None]]:
    return Counter({(entry.name, entry.type): entry.count for entry in parse_gres(gres)})


def _matters(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    if way(old.get("gres", ""), new.get("gres", "")) != "same":
        return True
    return any(old.get(key) != new.get(key) for key in {*old, *new} if key not in (*_HARMLESS, "gres"))


def read_nodes(text: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Nodes by name, each with the words of its line, those for it alone taken apart; and all other settings."""
    nodes: dict[str, dict[str, str]] = {}
    settings: dict[str, str] = {}
    default: dict[str, str] = {}
    for raw in re.sub(r"\\\s*\n", " ", text).splitlines():
        words = {key.lower(): value.strip('"') for key, value in _WORD.findall(re.sub(r"(?<!\\)#.*", "", raw))}
        if "nodename" not in words:
            settings |= words
        elif words["nodename"].upper() == "DEFAULT":
            default |= words
        else:
            names = expand(words.pop("nodename"))
            lists = {key: expand(words[key]) for key in ("nodeaddr", "nodehostname") if key in words}
            for place, name in enumerate(names):
                own = {key: hosts[place] for key, hosts in lists.items() if len(hosts) == len(names)}
                nodes[name] = {**default, **words, **own}
                nodes[name].pop("nodename", None)
    return nodes, settings
