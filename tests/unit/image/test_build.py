# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``./run image``: what is refused before anything is made, what a failure leaves, what stops a bad image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rig.play import Recap
from rig.process import Completed, RigError

from image import build, disk, machine, manifest


@pytest.mark.parametrize(("text", "size"), [("4096M", 4096), ("20G", 20480), ("20g", 20480), ("1T", 1048576)])
def test_sizes(text: str, size: int) -> None:
    assert build.mebibytes(text) == size


@pytest.mark.parametrize("text", ["", "20", "G", "-1G", "20GB", "1.5G", "20 G", "9999999G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(RigError, match=f"such as 20G or 4096M, found '{text.upper()}'"):
        build.mebibytes(text.upper())


class Machine:
    """Stands in for the container: it has a folder, and knows whether it was taken down."""

    name = "stand-in"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder
        self.is_down = False

    def connection(self, user: str) -> dict[str, str]:
        return {"ansible_user": user}

    def keep_packages(self) -> None:
        assert not self.is_down

    def down(self) -> None:
        self.is_down = True


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "container").mkdir()
    one = Machine(tmp_path / "container")
    monkeypatch.setattr("rig.environment.ensure", lambda: None)
    monkeypatch.setattr("image.system.ensure", lambda: tmp_path / "base")
    monkeypatch.setattr("image.machine.start", lambda: one)
    monkeypatch.setattr("image.machine.halt", lambda node: node.root)
    return one


def test_variables_that_are_not_there_are_refused_before_a_machine_is_made(tmp_path: Path) -> None:
    with pytest.raises(RigError, match=f"a file of Ansible variables at {tmp_path}/none.yml, found none"):
        build.build(build.Wanted(tmp_path / "x.qcow2", variables=[tmp_path / "none.yml"]))
    assert list(tmp_path.iterdir()) == []


def test_a_playbook_that_fails_leaves_no_machine_and_the_image_of_before(
    container: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "image.qcow2"
    output.write_text("of the build before")
    variables = tmp_path / "mine.yml"
    variables.touch()
    seen: list[Any] = []

    def playbook(words: Sequence[Any], hosts: Path, *_: Any) -> Recap:
        seen.extend((list(words), json.loads(hosts.read_text())))
        raise RigError("the playbook failed")

    monkeypatch.setattr("rig.play.playbook", playbook)
    with pytest.raises(RigError, match="the playbook failed"):
        build.build(build.Wanted(output, variables=[variables]))
    assert container.is_down
    assert output.read_text() == "of the build before"
    words, hosts = seen
    assert words == ["hpc.compute.image", "--extra-vars", f"@{variables}"]
    assert hosts == {"all": {"hosts": {"stand-in": {"ansible_user": "root"}}}}


def test_an_image_with_something_wrong_in_it_is_not_made(
    container: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ["hygiene  logs  ok  ", "hygiene  munge key  wrong  /etc/munge/munge.key"]
    said = f"localhost | SUCCESS => {json.dumps({'good': False, 'table': table})}\n"
    monkeypatch.setattr(build, "run", lambda words, **_: Completed(words, 0, said, ""))
    monkeypatch.setattr("rig.play.playbook", lambda *_: Recap(1, 1))
    with pytest.raises(RigError, match=r"found:\nhygiene  munge key  wrong  /etc/munge/munge.key$"):
        build.build(build.Wanted(tmp_path / "image.qcow2"))
    assert container.is_down
    assert not (tmp_path / "image.qcow2").exists()


def test_a_disk_that_can_not_be_written_leaves_all_files_of_the_build_before(
    container: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "image.qcow2"
    before = {path: f"{path.name} of the build before" for path in (output, *manifest.files(output))}
    for path, text in before.items():
        path.write_text(text)

    def sboms(root: Path, place: Path, text: str) -> None:
        for name in ("sbom.spdx.json", "sbom.cdx.json"):
            (place / name).write_text("of this build")

    def write(*_: Any) -> None:
        raise RigError("No space left on device")

    (container.root / "usr/lib/modules").mkdir(parents=True)
    monkeypatch.setattr("rig.play.playbook", lambda *_: Recap(1, 1))
    monkeypatch.setattr(build, "verify", lambda _: None)
    monkeypatch.setattr(manifest, "packages", lambda _: {"munge": "0.5.16-1"})
    monkeypatch.setattr(manifest, "_sboms", sboms)
    monkeypatch.setattr(disk, "prepare_root", lambda *_: None)
    monkeypatch.setattr(disk, "write", write)
    with pytest.raises(RigError, match="No space left"):
        build.build(build.Wanted(output))
    assert {path: path.read_text() for path in before} == before
    assert "munge" in (container.root / "usr/share/hpc-compute/manifest.json").read_text()


def test_what_was_the_rigs_own_does_not_stay_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("etc/systemd/network/10-rig.network", "etc/cloud/cloud-init.disabled", "etc/resolv.conf", "etc/hosts"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("of the rig")

    class Node:
        name = "stand-in"
        root = tmp_path

        def run(self, command: Sequence[str], check: bool = True) -> None:
            assert command == ["systemctl", "poweroff"]

    up = iter([True, True, False])
    monkeypatch.setattr("rig.nspawn.is_up", lambda _: next(up))
    assert machine.halt(Node()) == tmp_path  # type: ignore[arg-type]  # what it is asked for, it has
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.is_dir()) == [
        "environment",
        "hosts",
        "resolv.conf",
    ]
    assert not any("rig" in path.read_text() for path in (tmp_path / "etc/environment", tmp_path / "etc/hosts"))
    assert (tmp_path / "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")
