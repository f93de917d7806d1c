# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are changed together and with the controller's consent, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm import publish as publishing
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import PublishError, pending, publish

_NODES = "NodeName=a Gres=gpu:x:1\nNodeName=b\n"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text("ClusterName=c\nInclude nodes.conf\nNodeName=c Gres=gpu:x:1\n")
    path.chmod(0o640)
    (tmp_path / "nodes.conf").write_text(_NODES)
    return path


def test_finds_the_file_that_has_the_line(conf: Path) -> None:
    asked: list[str] = []
    done = publish(conf, {"a": "gpu:y:2", "c": ""}, lambda: asked.append((conf.parent / "nodes.conf").read_text()))
    assert [change.path.name for change in done.files] == ["slurm.conf", "nodes.conf"]
    assert done.before == {"a": "gpu:x:1", "c": "gpu:x:1"}
    assert asked == [_NODES.replace("gpu:x:1", "gpu:y:2")]
    assert conf.read_text().endswith("NodeName=c\n")
    assert conf.stat().st_mode & 0o777 == 0o640
    assert not publish(conf, {"a": "gpu:y:2"}, lambda: asked.append("again")).changed
    assert len(asked) == 1
    assert {path.name for path in conf.parent.iterdir()} == {"slurm.conf", "nodes.conf"}


def test_check_mode(conf: Path) -> None:
    done = publish(conf, {"a": ""}, lambda: pytest.fail("must not be called"), check=True)
    assert done.changed
    assert (conf.parent / "nodes.conf").read_text() == _NODES


def test_the_old_files_come_back_when_the_controller_refuses(conf: Path) -> None:
    before = conf.read_text()

    def refuse() -> None:
        raise LookupError("refused")

    with pytest.raises(LookupError, match="refused"):
        publish(conf, {"a": "gpu:y:2", "c": ""}, refuse)
    assert (conf.read_text(), (conf.parent / "nodes.conf").read_text()) == (before, _NODES)


def test_the_first_file_comes_back_when_the_second_fails(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = conf.read_text(), publishing.replace_file

    def fail_for_nodes(path: Path, text: str) -> None:
        if path.name == "nodes.conf":
            raise OSError(28, "No space left on device", str(path))
        real(path, text)

    monkeypatch.setattr(publishing, "replace_file", fail_for_nodes)
    with pytest.raises(PublishError, match=r"nodes\.conf: No space left on device; the old configuration is back"):
        publish(conf, {"a": "gpu:y:2", "c": ""})
    assert conf.read_text() == before


def test_no_half_file_is_left(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error", "disk")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(PublishError, match="Input/output error"):
        publish(conf, {"a": ""})
    assert {path.name for path in conf.parent.iterdir()} == {"slurm.conf", "nodes.conf"}


def test_says_what_is_missing(conf: Path) -> None:
    with pytest.raises(PublishError, match="expected lines NodeName= for d, e in"):
        publish(conf, {"a": "", "e": "", "d": ""})
    with pytest.raises(PublishError, match="expected a readable text file"):
        publish(conf.parent / "no.conf", {"a": ""})
    with pytest.raises(PublishError, match="expected the folder"):
        publish(conf.parent / "no/slurm.conf", {"a": ""})


def test_names_the_file_with_a_line_that_can_not_be_changed(conf: Path) -> None:
    (conf.parent / "nodes.conf").write_text("NodeName=a,b NodeAddr=x\n")
    with pytest.raises(PublishError, match=r"nodes\.conf: expected 2 entries"):
        publish(conf, {"a": "gpu:1"})


def test_files_that_include_each_other(conf: Path) -> None:
    (conf.parent / "nodes.conf").write_text("include slurm.conf\n")
    with pytest.raises(PublishError, match="without end"):
        publish(conf, {"a": ""})


def test_a_link_stays_one(conf: Path) -> None:
    (conf.parent / "shared").mkdir()
    conf.rename(conf.parent / "shared/slurm.conf")
    conf.symlink_to("shared/slurm.conf")
    assert publish(conf, {"c": "gpu:z:9"}).changed
    assert conf.is_symlink()
    assert "gpu:z:9" in (conf.parent / "shared/slurm.conf").read_text()


def test_what_a_killed_run_wrote_is_taken_over(conf: Path) -> None:
    asked: list[str] = []

    def die() -> None:
        raise KeyboardInterrupt

    assert publish(conf, {"a": "gpu:y:2"}).changed
    pending(conf).touch()  # as left by a run that ended before the controller was told
    assert not publish(conf, {"a": "gpu:y:2"}).changed, "a controller that only has the file is not told"
    assert publish(conf, {"a": "gpu:y:2"}, lambda: asked.append("in check mode"), check=True).left_over
    with pytest.raises(KeyboardInterrupt):
        publish(conf, {"a": "gpu:y:2"}, die)
    assert pending(conf).exists(), "the file is still there, and not taken over"
    assert publish(conf, {"a": "gpu:y:2"}, lambda: asked.append("again")).changed
    assert (asked, pending(conf).exists()) == (["again"], False)
    with pytest.raises(KeyboardInterrupt):
        publish(conf, {"a": ""}, die)
    assert not pending(conf).exists(), "the old file is back"


def test_the_mark_is_there_while_the_controller_is_told(conf: Path) -> None:
    seen: list[bool] = []
    publish(conf, {"a": ""}, lambda: seen.append(pending(conf).exists()))
    assert (seen, pending(conf).exists()) == ([True], False)
