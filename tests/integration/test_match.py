# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our matching of types to devices against the real one: pairs of machine and configuration, generated.

``HPC_COMPUTE_MATCH_PAIRS`` says how many (default 40), ``HPC_COMPUTE_MATCH_SEED`` which (default 1).
"""

from __future__ import annotations

import os
from collections import Counter

from ansible_collections.hpc.compute.plugins.module_utils.slurm.binding import bind
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import parse_gres_report
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import format_gres
from integration.pairs import Pair, generate
from integration.slurmd_node import SlurmdNode

_COUNT = int(os.environ.get("HPC_COMPUTE_MATCH_PAIRS", "40"))
_SEED = int(os.environ.get("HPC_COMPUTE_MATCH_SEED", "1"))


def _predicted(pair: Pair) -> list[str]:
    outcome = bind(pair.entries, pair.devices)
    return [
        *(f"offers {one.label} = {one.device.file} {one.device.unique_id}" for one in outcome.bindings),
        *sorted(f"ignores {one.file}" for one in outcome.ignored),
        *sorted(f"misses {count} of {label}" for label, count in outcome.missing),
    ]


def _real(output: str) -> list[str]:
    report = parse_gres_report(output)
    return [
        *(f"offers {one.type} = {one.file} {one.uuid}" for one in report.offered),
        *sorted(f"ignores {one.file}" for one in report.ignored),
        *sorted(f"misses {count} of {kind}" for kind, count in Counter(one.type for one in report.discarded).items()),
    ]


def test_bind_agrees_with_slurmd(slurmd_node: SlurmdNode) -> None:
    pairs = generate(_COUNT, _SEED)
    answers = slurmd_node.ask_slurmd(
        [{"gres": format_gres(pair.entries), "fake_gpus": pair.fake_gpus()} for pair in pairs]
    )
    differing = []
    for number, (pair, answer) in enumerate(zip(pairs, answers, strict=True)):
        predicted, real = _predicted(pair), _real(answer["output"])
        if answer["rc"] != 0 or predicted != real:
            lines = [
                f"pair {number} of seed {_SEED}: Gres={format_gres(pair.entries)}",
                *(f"  device {device}" for device in pair.devices),
                *(f"  only predicted: {line}" for line in predicted if line not in real),
                *(f"  only slurmd:    {line}" for line in real if line not in predicted),
            ]
            if answer["rc"] != 0 or Counter(predicted) == Counter(real):
                lines.append(f"  exit code {answer['rc']}, or another order of devices: {answer['output']}")
            differing.append("\n".join(lines))
    print(f"{len(pairs) - len(differing)} of {len(pairs)} pairs agree (seed {_SEED})")
    assert not differing, f"{len(differing)} of {len(pairs)} pairs differ\n" + "\n".join(differing[:5])


def test_the_pairs_cover_what_they_are_for() -> None:
    pairs = generate(40, 1)
    outcomes = [bind(pair.entries, pair.devices) for pair in pairs]
    kinds = [{device.kind for device in pair.devices} for pair in pairs]
    assert sum(len(one) == 2 for one in kinds) >= 10, "machines with whole and cut GPUs"
    assert sum(any("+me" in device.type for device in pair.devices) for pair in pairs) >= 8
    assert sum(bool(outcome.ignored) for outcome in outcomes) >= 8, "incomplete configurations"
    assert sum(bool(outcome.missing) for outcome in outcomes) >= 4, "types that match nothing"
    assert sum(any(entry.type is None for entry in pair.entries) for pair in pairs) >= 2
    assert sum(not outcome.ignored and not outcome.missing for outcome in outcomes) >= 8, "complete configurations"
