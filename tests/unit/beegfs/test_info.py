# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module beegfs_client_info: which packages and kernels a machine has, and which headers it may need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.files import MARK
from ansible_collections.hpc.compute.plugins.modules import beegfs_client_info

DPKG = """installed beegfs-client-dkms 20:8.3.1
config-files beegfs-helperd 20:7.4.7
installed linux-image-amd64 6.12.118-1
installed linux-image-6.12.118+deb13-amd64 6.12.118-1
not-installed linux-image-cloud-amd64
"""


def look(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    monkeypatch.setattr(AnsibleModule, "run_command", lambda *_, **__: (code, DPKG, "dpkg-query: error: x\n"))
    with patch_module_args({"root": str(root)}), pytest.raises(SystemExit):
        beegfs_client_info.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_it_tells_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lib/modules/6.12.118+deb13-amd64/kernel").mkdir(parents=True)
    units, job = tmp_path / "etc/systemd/system", tmp_path / "proc/7"
    units.mkdir(parents=True)
    for name, path in (("b", "/b"), ("gone", "/gone")):
        (units / f"{name}.mount").write_text(f"{MARK}\n[Mount]\nWhere={path}\n")
    (units / "site.mount").write_text("[Mount]\nWhere=/site\n")
    (job / "fd").mkdir(parents=True)
    (job / "comm").write_text("python\n")
    for number, path in enumerate(("/b/data", "/gone", "/site")):
        (job / f"fd/{number}").symlink_to(path)
    (tmp_path / "proc/self").mkdir()
    mounts = "".join(f"1 0 0:1 / {path} rw - beegfs beegfs_nodev rw\n" for path in ("/b", "/site"))
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    found = look(tmp_path, monkeypatch, capsys, 1)
    assert found["packages"] == {"beegfs-client-dkms": "20:8.3.1"}
    assert found["kernels"] == ["6.12.118+deb13-amd64"]
    assert found["headers_packages"] == ["linux-headers-6.12.118+deb13-amd64", "linux-headers-amd64"]
    assert not found["interrupted"]
    assert found["in_use"] == {"/b": ["7 python"]}
    assert not found["changed"]


@pytest.mark.parametrize(("text", "interrupted"), [("hpc.compute: for the moment\n", True), ("the site's\n", False)])
def test_it_tells_of_a_run_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, interrupted: bool
) -> None:
    (tmp_path / "etc/dkms").mkdir(parents=True)
    (tmp_path / "etc/dkms/no-autoinstall").write_text(text)
    assert look(tmp_path, monkeypatch, capsys, 0)["interrupted"] is interrupted


def test_a_dpkg_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = look(tmp_path, monkeypatch, capsys, 2)
    assert found["msg"] == "expected dpkg-query to list packages, found exit code 2: dpkg-query: error: x"
