# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics as values, their text in Prometheus' exposition format, and files that nobody reads half-written."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True)
class Sample:
    """One value of a metric, told from the others by its labels."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A metric with its samples; one without samples is left out of the text."""

    name: str
    help: str
    samples: tuple[Sample, ...]
    kind: Literal["gauge", "counter"] = "gauge"


def gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    """A metric with a single sample."""
    return Metric(name, text, (Sample(value, labels),))


def render(metrics: Iterable[Metric]) -> str:
    """The text of *metrics*, in their order.

    :raises ValueError: a name is none, or a metric or a sample comes twice: node exporter would refuse the whole file.
    """
    lines: list[str] = []
    names: set[str] = set()
    seen: set[str] = set()
    for metric in metrics:
        if not _NAME.fullmatch(metric.name):
            raise ValueError(f"expected the name of a metric, found {metric.name!r}")
        if metric.name in names:
            raise ValueError(f"expected each metric once, found {metric.name} again")
        names.add(metric.name)
        if metric.samples:
            lines += [f"# HELP {metric.name} {_escaped(metric.help)}", f"# TYPE {metric.name} {metric.kind}"]
        for sample in metric.samples:
            line = f"{metric.name}{_labels(sample.labels)}"
            if line in seen:
                raise ValueError(f"expected each sample once, found {line} again")
            seen.add(line)
            lines.append(f"{line} {_number(sample.value)}")
    return "".join(f"{line}\n" for line in lines)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _labels(labels: Mapping[str, str]) -> str:
    for name in labels:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"expected the name of a label, found {name!r}")
    inner = ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in sorted(labels.items()))
    return f"{{{inner}}}" if inner else ""


def _escaped(text: str, quotes: bool = False) -> str:
    # A byte that is no UTF-8 (from a command's output) would make the file unreadable as a whole.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Put *text* in the place of the file *path* at once: whoever reads sees the old file or the new one.

    :raises OSError: it can't be written; the old file stays.
    """
    # A dot in front: node exporter reads *.prom, and the DCGM exporter takes names that are numbers.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
