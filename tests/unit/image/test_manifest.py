# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest and the lists for scanners, made from a small system by the real tools."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from rig import process
from rig.process import Completed

from image import manifest

_STATUS = """\
Package: dpkg
Status: install ok installed
Architecture: amd64
Maintainer: Nobody <nobody@example.org>
Version: 1.22.22
Description: whose architecture is the system's

Package: munge
Status: install ok installed
Architecture: amd64
Maintainer: Nobody <nobody@example.org>
Version: 0.5.16-1
Description: a tool

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Maintainer: Nobody <nobody@example.org>
Version: 1
Description: removed, its settings stay

"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "usr/lib/modules/6.12-a", "usr/lib/modules/6.12-half", "etc"):
        (top / folder).mkdir(parents=True)
    (top / "var/lib/dpkg/status").write_text(_STATUS)
    (top / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n')
    (top / "usr/lib/modules/6.12-a/modules.dep").touch()
    return top


def test_all_is_written_into_the_image_and_beside_it(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out/image.qcow2"
    assert manifest.describe(root).packages == 2
    output.parent.mkdir()
    output.write_bytes(b"disk")
    manifest.publish(root, output)
    manifest.checksum(output)

    written = json.loads((tmp_path / "out/image.manifest.json").read_text())
    assert written["packages"] == {"dpkg": "1.22.22", "munge": "0.5.16-1"}, (
        "a package that was removed is not in the image"
    )
    assert written["kernels"] == ["6.12-a"], "without an index of modules it is no kernel"
    assert written["collection"] == "hpc.compute"
    assert written["version"]
    spdx = json.loads((tmp_path / "out/image.sbom.spdx.json").read_text())
    assert spdx["spdxVersion"] == "SPDX-2.3"
    assert "munge" in {package["name"] for package in spdx["packages"]}
    cyclone = json.loads((tmp_path / "out/image.sbom.cdx.json").read_text())
    assert "munge" in {component["name"] for component in cyclone["components"]}

    inside = root / "usr/share/hpc-compute"
    for path in inside.iterdir():
        assert path.read_bytes() == (tmp_path / f"out/image.{path.name}").read_bytes()
    names = {path.name for path in (output, *manifest.files(output))}
    assert {path.name for path in output.parent.iterdir()} == names
    checked = subprocess.run(["sha256sum", "--check", f"{output.name}.sha256"], cwd=output.parent, capture_output=True)
    assert checked.returncode == 0
    assert checked.stdout.count(b": OK") == len(names) - 1


def test_outside_of_a_clone_there_is_no_commit(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], **options: bool) -> Completed:
        return Completed(words, 128, "", "no repository") if words[0] == "git" else process.run(words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest, "run", run)
    manifest.describe(root)
    assert json.loads((root / "usr/share/hpc-compute/manifest.json").read_text())["commit"] is None
