# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting a command on a node: written once, with its mode, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.command.bundle import GPU_LAYOUT, bundle
from ansible_collections.hpc.compute.plugins.module_utils.command.place import place


class FailedError(Exception):
    """The module was told to fail."""


class Module:
    """What is used of ``AnsibleModule``."""

    def __init__(self, folder: Path, check_mode: bool = False) -> None:
        self.tmpdir, self.check_mode = str(folder), check_mode

    def fail_json(self, msg: str) -> NoReturn:
        raise FailedError(msg)

    def atomic_move(self, source: str, target: str) -> None:
        Path(source).replace(target)

    def set_mode_if_different(self, path: str, mode: str, changed: bool) -> bool:
        wanted = int(mode, 8)
        if Path(path).stat().st_mode & 0o7777 == wanted:
            return changed
        if not self.check_mode:
            Path(path).chmod(wanted)
        return True


def test_it_is_written_once_and_its_mode_is_put_right(tmp_path: Path) -> None:
    path = tmp_path / "gpu-layout"
    module: Any = Module(tmp_path)
    assert place(module, path, GPU_LAYOUT) is True
    assert path.read_bytes() == bundle(GPU_LAYOUT)
    assert path.stat().st_mode & 0o7777 == 0o755
    assert place(module, path, GPU_LAYOUT) is False
    path.chmod(0o600)
    assert place(module, path, GPU_LAYOUT) is True
    assert path.stat().st_mode & 0o7777 == 0o755
    assert [entry.name for entry in tmp_path.iterdir()] == ["gpu-layout"]


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert place(Module(tmp_path, check_mode=True), tmp_path / "gpu-layout", GPU_LAYOUT) is True
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    module: Any = Module(tmp_path)
    with pytest.raises(FailedError, match=r"directory .*/none of .* does not exist"):
        place(module, tmp_path / "none/gpu-layout", GPU_LAYOUT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FailedError, match="expected to be a readable file: Is a directory"):
        place(module, tmp_path / "folder", GPU_LAYOUT)
    with pytest.raises(FailedError, match="nowhere"):
        place(module, tmp_path / "x", "command.nowhere")
