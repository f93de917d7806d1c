# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random layouts, as values and as text, are planned or refused in words: nothing else ever comes out.

``HPC_COMPUTE_FUZZ_LAYOUTS=10000`` sets how many.
"""

from __future__ import annotations

import os
import random
from typing import Any

import yaml
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import boards
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import LayoutError, parse_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_file import load_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import plan_machine
from ansible_collections.hpc.compute.plugins.module_utils.mig.report import report
from unit.mig.plan_oracle import random_state

LAYOUTS = int(os.environ.get("HPC_COMPUTE_FUZZ_LAYOUTS", "500"))

NAMES = [profile.name for board in boards() for profile in board.profiles]
NUMBERS: list[Any] = [True, 0, -1, 7, 10**40, 1.5]
ODD: list[Any] = [*NUMBERS, None, "", "all", "0x233010DE", "\u00e9\u2028", [], {}, [[]], {"a": 1}]
DEVICES: list[Any] = [0, 1, 2, 5, "0000:17:00.0", "17:00.0", "*H100*", "*", "GPU-x", "[", "all", -1, None]
FILTERS = ["0x233010DE", "0x20B710DE", "0x2BB510DE", "0x233010DE:0x16C110DE", "0x2330", ""]


class Text(str):
    """A layout as text, told apart from a text where a layout should be."""


def random_layout(rng: random.Random) -> Any:
    """A layout that is right more often than not in each of its parts."""
    configs = {rng.choice(["a", "b", "c", 1]): odd(rng, random_entries(rng)) for _ in range(rng.randrange(1, 3))}
    data: Any = {"version": odd(rng, "v1"), "mig-configs": odd(rng, configs)}
    if rng.random() < 0.03:
        data["more"] = rng.choice(ODD)
    return odd(rng, data)


def random_entries(rng: random.Random) -> list[Any]:
    entries = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        entry: dict[str, Any] = {"devices": "all", "mig-enabled": rng.random() < 0.9}
        if rng.random() < 0.6:
            entry["devices"] = [rng.choice(DEVICES) for _ in range(rng.randrange(1, 3))]
        if rng.random() < 0.3:
            entry["device-filter"] = odd(rng, rng.choice(FILTERS))
        if entry["mig-enabled"] or rng.random() < 0.1:
            keys = rng.choices([*NAMES, "1g", "2g", "half", "whole", "1c.3g.40gb", "9g.9gb"], k=rng.randrange(4))
            entry["mig-devices"] = {odd(rng, key, hashable=True): odd(rng, rng.randrange(9)) for key in keys}
        entries.append(odd(rng, {key: odd(rng, value) for key, value in entry.items() if rng.random() < 0.99}))
    return entries


def odd(rng: random.Random, value: Any, hashable: bool = False) -> Any:
    """*value*, or once in a while something that has no place there."""
    if rng.random() > 0.02:
        return value
    return rng.choice([one for one in ODD if not (hashable and isinstance(one, (list, dict)))])


def damaged(rng: random.Random, text: str) -> str:
    """*text* with a few characters put in, taken out or doubled."""
    for _ in range(rng.choice([0, 0, 1, 2, 4])):
        at = rng.randrange(len(text) + 1)
        sign = rng.choice(
            ["\t", "\n", ":", "- ", "&a ", "*a", "!!x ", "{", "]", "'", '"', "<<: ", "\x07", "#", "|", "%"]
        )
        text = text[:at] + rng.choice([sign, "", text[at : at + 9] * 2]) + text[at + rng.randrange(3) :]
    return text


def test_random_layouts_never_give_a_traceback() -> None:
    rng = random.Random(4)  # noqa: S311  # test data that can be had again
    gpus = tuple(random_state(board, rng) for board in boards())
    machines = [Inventory(gpus[n : n + 1], driver_version="580.95.05") for n in range(len(gpus))]
    machines.append(Inventory())
    outcomes = {"refused": 0, "planned": 0, "does not fit": 0}
    for _ in range(LAYOUTS):
        data = random_layout(rng)
        text = damaged(rng, yaml.safe_dump(data, allow_unicode=True))
        for given in (data, Text(text)):
            machine = rng.choice(machines)
            refusal = None
            try:
                parsed = load_layout(given) if isinstance(given, Text) else parse_layout(given)
                plan = plan_machine(machine, parsed.config(rng.choice(list(parsed.configs))), allow_missing=True)
            except LayoutError as error:
                refusal = str(error)
            if refusal is not None:
                outcomes["refused"] += 1
                assert "expected" in refusal, (data, text)
                continue
            outcomes["planned" if plan.feasible else "does not fit"] += 1
            for problem in report(plan)["problems"]:
                assert "expected" in problem["message"] or "fit" in problem["message"], problem
    # A fuzz whose inputs are all refused at the door proves nothing.
    assert min(outcomes.values()) > LAYOUTS / 20, outcomes
