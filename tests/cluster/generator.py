#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""On the controller: keep submitting jobs, and look at the nodes all the time for a state in which none should be.

Run as ``generator.py SEED``. It ends when ``/var/lib/load/stop`` is there. Writes lines of JSON: every job with its
name to ``/var/lib/load/submitted``, every bad state seen to ``/var/lib/load/seen``.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path("/var/lib/load")
MARKER = "hpc.compute: "
#: Jobs that wait; more would only make the controller slower than the machine is.
WAITING = 4
PAUSE_S = 0.4


def said(*words: str) -> str | None:
    """What a command of Slurm printed; ``None`` when it failed, as while the controller starts."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


def nodes() -> list[dict[str, Any]]:
    """The nodes as the controller has them; none while it does not answer."""
    text = said("scontrol", "show", "nodes", "--json")
    found: list[dict[str, Any]] = json.loads(text)["nodes"] if text else []
    return found


def bad(node: dict[str, Any]) -> str | None:
    """Why this state should not be, if so."""
    if "INVALID_REG" in node["state"]:
        return "refused by the controller"
    if "DRAIN" in node["state"] and not node["reason"].startswith(MARKER):
        return "drained with a reason that is not ours"
    return None


def request(found: list[dict[str, Any]], dice: random.Random) -> tuple[str, str]:
    """Type and options of a job: often any GPU, often a type that is offered, sometimes a GPU on each of two nodes."""
    offered = [node for node in found if node["gres"]]
    kinds = sorted({kind for node in offered for kind in re.findall(r"gpu:([^:(,]+):\d+", node["gres"])})
    throw = dice.random()
    if throw < 0.15 and len(offered) > 1:
        return "", "--nodes=2 --ntasks-per-node=1 --gres=gpu:1"
    if throw < 0.5 and kinds:
        kind = dice.choice(kinds)
        return kind, f"--gres=gpu:{kind}:1"
    return "", "--gres=gpu:1"


def waiting(wanted: list[str], found: list[dict[str, Any]]) -> int:
    """How many of the jobs that wait for *wanted* may yet run: their type is still offered."""
    kinds = [match[1] if (match := re.search(r"gpu:([^:]+):\d+$", one)) else None for one in wanted]
    return sum(kind is None or any(f"gpu:{kind}:" in node["gres"] for node in found) for kind in kinds)


def submit(number: int, kind: str, options: str, dice: random.Random) -> dict[str, Any]:
    """Submit a job and tell what came of it; ``state`` is ``refused`` where Slurm has no such node any more."""
    name = f"load-{number:05d}"
    two = "--nodes=2" in options
    command = f"python3 -S /opt/load/job.py {name} '{kind}' {dice.uniform(0.5, 6):.1f}"
    # a step on both nodes; on one node the script itself is the job
    script = f"exec srun --overlap {command}" if two else f"exec {command}"
    words = ["sbatch", "--parsable", f"--job-name={name}", "--chdir=/", "--mem=32M", "--output=/dev/null"]
    done = subprocess.run(
        [*words, *options.split(), "--wrap", script], capture_output=True, text=True, timeout=120, check=False
    )
    entry = {"name": name, "kind": kind, "parts": 2 if two else 1, "at": time.time()}
    if done.returncode == 0:
        return {**entry, "state": "submitted", "id": done.stdout.strip()}
    refused = "node configuration is not available" in done.stderr or "generic resource" in done.stderr
    return {**entry, "state": "refused" if refused else "unclear", "text": done.stderr.strip()}


def main() -> None:
    """Go on until told to stop."""
    dice = random.Random(int(sys.argv[1]))  # noqa: S311  # a load that can be had again
    FOLDER.mkdir(exist_ok=True)
    number = 0
    with (FOLDER / "submitted").open("a") as submitted, (FOLDER / "seen").open("a") as seen:
        while not (FOLDER / "stop").exists():
            found = nodes()
            for node in found:
                why = bad(node)
                if why:
                    entry = {"at": time.time(), "node": node["name"], "why": why, "state": node["state"]}
                    print(json.dumps({**entry, "reason": node["reason"]}), file=seen, flush=True)
            queue = said("squeue", "--noheader", "--states=PENDING", "--format=%b")
            if found and queue is not None and waiting(queue.split(), found) < WAITING:
                number += 1
                print(json.dumps(submit(number, *request(found, dice), dice)), file=submitted, flush=True)
            time.sleep(PAUSE_S)  # the pace of the load


if __name__ == "__main__":
    main()
