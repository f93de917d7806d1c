# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of metrics, and files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.monitoring.metrics import (
    Metric,
    Sample,
    gauge,
    render,
    write_whole,
)


def test_text() -> None:
    metrics = [
        gauge("a_total", "One\nand \\ two.", 2.5, b='x"y\\z\n', a="ü"),
        Metric("b", "Two.", (Sample(1), Sample(3e9, {"k": "v"})), "counter"),
        Metric("left_out", "None.", ()),
    ]
    assert render(metrics) == (
        "# HELP a_total One\\nand \\\\ two.\n# TYPE a_total gauge\n"
        'a_total{a="ü",b="x\\"y\\\\z\\n"} 2.5\n'
        '# HELP b Two.\n# TYPE b counter\nb 1\nb{k="v"} 3000000000\n'
    )


def test_a_byte_that_is_no_text_does_not_spoil_the_file() -> None:
    assert 'x="a?"' in render([gauge("m", "M.", 1, x="a\udcff")])


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ([gauge("1x", "X.", 1)], "the name of a metric, found '1x'"),
        ([Metric("x", "X.", (Sample(1, {"a-b": "c"}),))], "the name of a label, found 'a-b'"),
        ([gauge("x", "X.", 1), gauge("x", "X.", 2)], "each metric once, found x again"),
        ([Metric("x", "X.", (Sample(1), Sample(2)))], "each sample once, found x again"),
    ],
)
def test_what_node_exporter_would_refuse(metrics: list[Metric], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render(metrics)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    write_whole(path, "old\n")
    with path.open() as reader:
        write_whole(path, "new\n")
        assert reader.read() == "old\n"
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir()] == ["x.prom"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.prom"
    write_whole(path, "old\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new\n")
    assert path.read_text() == "old\n"
    assert [one.name for one in tmp_path.iterdir()] == ["x.prom"]
