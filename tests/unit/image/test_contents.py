# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine that Packer boots sends of itself becomes a manifest and SBOMs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rig.paths import REPO
from rig.process import RigError

from image import contents

_STATUS = """\
Package: munge
Status: install ok installed
Architecture: amd64
Maintainer: Nobody <nobody@example.org>
Version: 0.5.16-1
Description: a tool

"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Packed by the template's own command."""
    top = tmp_path / "machine"
    for folder in ("var/lib/dpkg", "var/lib/apt", "usr/lib/modules/6.12-a", "usr/share/doc/munge", "etc/munge"):
        (top / folder).mkdir(parents=True)
    (top / "var/lib/dpkg/status").write_text(_STATUS)
    (top / "var/lib/dpkg/arch-native").write_text("amd64\n")
    (top / "var/lib/apt/extended_states").write_text("")
    (top / "usr/lib/modules/6.12-a/modules.dep").touch()
    (top / "usr/share/doc/munge/changelog.Debian.gz").touch()
    (top / "etc/munge/munge.key").write_text("secret")
    template = (REPO / "packer/hpc-compute/hpc-compute.pkr.hcl").read_text()
    (command,) = re.findall(r'"(cd / && tar [^"]+)"', template)
    path = tmp_path / "contents.tar"
    command = command.replace("cd /", f"cd {top}").replace("/run/hpc-compute-contents.tar", str(path))
    subprocess.run(["sh", "-c", command], check=True)
    return path


def test_what_the_template_sends_is_enough(archive: Path, tmp_path: Path) -> None:
    contents.write(archive, tmp_path / "described")
    written = json.loads((tmp_path / "described/manifest.json").read_text())
    assert written["packages"] == {"munge": "0.5.16-1"}
    assert written["kernels"] == ["6.12-a"]
    spdx = json.loads((tmp_path / "described/sbom.spdx.json").read_text())
    assert "munge" in {package["name"] for package in spdx["packages"]}
    assert "1970" not in spdx["creationInfo"]["created"], "when the newest package was made"
    assert {path.name for path in (tmp_path / "described").iterdir()} == {
        "manifest.json",
        "sbom.spdx.json",
        "sbom.cdx.json",
    }


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("no archive")
    with pytest.raises(RigError, match=f"tar -xf {tmp_path}/it"):
        contents.write(tmp_path / "it", tmp_path / "described")
    assert not (tmp_path / "described").exists()


def test_an_archive_without_packages_is_refused_on_the_command_line(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["tar", "--delete", "-f", archive, "var/lib/dpkg/status"], check=True)
    monkeypatch.setattr(sys, "argv", ["contents", str(archive), str(tmp_path / "described")])
    assert contents.main() == 1
    assert "var/lib/dpkg/status" in capsys.readouterr().err
    assert not (tmp_path / "described").exists()


def test_the_command_line_writes(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["contents", str(archive), str(tmp_path / "described")])
    assert contents.main() == 0
    assert (tmp_path / "described/manifest.json").exists()
