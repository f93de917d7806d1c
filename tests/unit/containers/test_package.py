# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module container_runtime_package where a file of an earlier run lies where another is to be copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.modules import container_runtime_package


class Exited(Exception):  # noqa: N818  # it is how a module ends, not an error
    pass


@pytest.mark.parametrize("check", [True, False])
def test_the_file_of_an_earlier_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check: bool) -> None:
    """In check mode the next one was not copied, so that the one that is there says nothing against it."""
    told: dict[str, Any] = {"warnings": []}

    def end(self: AnsibleModule, **values: Any) -> None:
        told.update(values)
        raise Exited

    monkeypatch.setattr(AnsibleModule, "exit_json", end)
    monkeypatch.setattr(AnsibleModule, "fail_json", end)
    monkeypatch.setattr(AnsibleModule, "warn", lambda self, text: told["warnings"].append(text))
    monkeypatch.setattr(AnsibleModule, "run_command", lambda self, *a, **b: (0, "apptainer 1.5.3 amd64", ""))
    monkeypatch.setattr(
        container_runtime_package,
        "gather",
        lambda *_: {"versions": {"apptainer": "1.5.3", "apptainer-suid": ""}, "architecture": "amd64"},
    )
    monkeypatch.setattr("tempfile.TemporaryDirectory", lambda **_: _Folder(tmp_path))
    package = tmp_path / "apptainer.deb"
    package.touch()
    given = {"packages": [{"name": "apptainer", "path": str(package)}], "version": "1.5.4"}
    with pytest.raises(Exited), patch_module_args({**given, "_ansible_check_mode": check}):
        container_runtime_package.main()
    if check:
        assert told["changed"] is True
        assert told["diff"]["after"] == "apptainer 1.5.4\n"
        assert told["warnings"][0].startswith("Expected apptainer 1.5.4 for amd64 in")
    else:
        assert told["msg"].startswith("Expected apptainer 1.5.4 for amd64 in")


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> str:
        return str(self.path)

    def __exit__(self, *_: object) -> None:
        pass
