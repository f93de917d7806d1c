# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm's host lists: ``gpu[01-03,7],login`` stands for ``gpu01 gpu02 gpu03 gpu7 login``.

Folding keeps the order, so that lists that belong together, such as ``NodeName`` and ``NodeAddr``, stay in step.
``tests/integration`` compares both directions with ``scontrol show hostnames``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

#: A list of more hosts than a cluster can have is a mistake that must not take all memory.
MOST_HOSTS = 200_000

_LAST_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)
_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
_BRACKETS = re.compile(r"\[([^\]]*)\]")
# Slurm reads numbers of more digits as text.
_MOST_DIGITS = 18


def fold(hosts: Iterable[str]) -> str:
    """The shortest list of these hosts in this order that folds the last number of each name."""
    parts = []
    for (prefix, suffix), group in groupby(map(_split, hosts), key=lambda one: (one[0], one[2])):
        numbers = [number for _, number, _ in group]
        ranges = list(_ranges(numbers))
        if len(numbers) == 1:
            parts.append(f"{prefix}{numbers[0]}{suffix}")
        else:
            parts.append(f"{prefix}[{','.join(ranges)}]{suffix}")
    return ",".join(parts)


def expand(text: str) -> list[str]:
    """The hosts of a list, in order.

    :raises ValueError: it is none, or stands for more hosts than :data:`MOST_HOSTS`.
    """
    hosts: list[str] = []
    for part in _OUTSIDE_BRACKETS.split(text):
        for host in _expand_one(part.strip()):
            hosts.append(host)
            if len(hosts) > MOST_HOSTS:
                raise ValueError(f"expected a host list of {MOST_HOSTS} hosts at most, found {text[:80]!r}")
    return hosts


def sort_key(host: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts hosts by their texts and, where these are the same, by the value of their numbers."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"\d+|\D+", host))


def _split(host: str) -> tuple[str, str, str]:
    """Prefix, number as it is written, suffix. A name without a number is all prefix, and joins no other."""
    match = _LAST_NUMBER.match(host)
    if match is None or len(match[2]) > _MOST_DIGITS:
        return host, "", ""
    return match[1], match[2], match[3]


def _ranges(numbers: list[str]) -> Iterator[str]:
    """``7``, or ``01-03`` where each is one more than the one before, as wide as the first or wider by value."""
    start = last = numbers[0]
    for number in [*numbers[1:], ""]:
        if number and last and number == str(int(last) + 1).zfill(len(start)):
            last = number
            continue
        yield start if start == last else f"{start}-{last}"
        start = last = number


def _expand_one(part: str) -> Iterator[str]:
    match = _BRACKETS.search(part)
    if match is None:
        if not part or "[" in part or "]" in part:
            raise ValueError(f"expected a host list such as gpu[01-03,7], found {part!r}")
        yield part
        return
    for piece in match[1].split(","):
        first, dash, last = piece.partition("-")
        numbers = first.isdecimal() and (not dash or last.isdecimal())
        if not numbers or not 0 <= int(last or first) - int(first) <= MOST_HOSTS:
            raise ValueError(f"expected numbers in the brackets of a host list, found {part!r}")
        for number in range(int(first), int(last or first) + 1):
            yield from _expand_one(part[: match.start()] + str(number).zfill(len(first)) + part[match.end() :])
