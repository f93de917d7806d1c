# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules that look at an image, as Ansible runs them, short of the connection."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.modules import image_seal, node_report


@pytest.mark.parametrize("module", [image_seal, node_report])
def test_who_can_not_read_everything_is_given_no_verdict(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc/munge").mkdir(parents=True)
    (tmp_path / "etc/munge/munge.key").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with patch_module_args({"root": str(tmp_path)}), pytest.raises(SystemExit):
        module.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["failed"]
    assert result["msg"] == "expected to be root, found user 1000: use become (ansible -b)"
    assert (tmp_path / "etc/munge/munge.key").exists()
