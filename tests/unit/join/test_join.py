# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a machine made from an image joins: who may tell it what, what is refused, what is written."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible_collections.hpc.compute.plugins.module_utils.join import apply, main, sources
from ansible_collections.hpc.compute.plugins.module_utils.join.sources import SourceError, Told, read
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresRefusedError

REPO = Path(__file__).resolve().parents[3]
KEY = bytes(range(64))
TEXT = base64.b64encode(KEY).decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("etc/hpc-compute", "etc/munge", "etc/default", "etc/slurm", "proc"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def told_by_file(root: Path, text: str) -> Told:
    (root / sources.FILE).write_text(text)
    return read(root)


def test_a_file_says_everything(root: Path) -> None:
    told = told_by_file(
        root,
        f"# ours\n\ncontrollers = ctl1, 10.0.0.2:7000\nmunge_key={TEXT}\nnode_name = gpu-01\ndynamic = yes\n",
    )
    assert told == Told(("ctl1", "10.0.0.2:7000"), KEY, "gpu-01", dynamic=True)
    assert told.missing == ()


def test_nobody_said_anything(root: Path) -> None:
    assert read(root) == Told()
    assert read(root).missing == ("controllers", "munge_key")


def test_the_file_counts_before_credentials_and_these_before_the_kernel(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "hpc-compute.controllers").write_text("of-the-credential\n")
    (folder / "hpc-compute.node_name").write_text("of-the-credential\n")
    (root / "proc/cmdline").write_text(
        f"quiet hpc_compute.controllers=of-the-kernel hpc_compute.node_name=k hpc_compute.munge_key={TEXT} ro\n"
    )
    (root / sources.FILE).write_text("controllers = of-the-file\n")
    told = read(root, folder)
    assert told == Told(("of-the-file",), KEY, "of-the-credential", public=True)
    assert read(root, tmp_path / "none").node_name == "k"


def test_a_key_in_a_file_of_its_own_may_come_later(root: Path) -> None:
    told = told_by_file(root, "controllers = ctl\nmunge_key_file = /mnt/keys/munge.key\n")
    assert told.missing == ("munge_key",)
    (root / "mnt/keys").mkdir(parents=True)
    (root / "mnt/keys/munge.key").write_bytes(KEY)
    assert read(root).munge_key == KEY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("controller = ctl", "line 1: expected 'key = value' with a key of controllers, .*found 'controller'"),
        ("# x\ncontrollers", "line 2"),
        ("controllers = a\ncontrollers = b", "line 2: controllers stands there twice"),
        ("controllers = a/b", "controllers of /etc/hpc-compute/join.conf: expected host or host:port.*'a/b'"),
        ("node_name = a b", "expected a name"),
        ("dynamic = perhaps", "expected yes or no, found 'perhaps'"),
        ("munge_key = no-base64!", "expected base64"),
        ("munge_key = c2hvcnQ=", "expected 32 to 1024 bytes, found 5"),
        ("munge_key_file = /etc", "can't be read"),
    ],
)
def test_what_is_no_good_is_named_and_no_key_is_shown(root: Path, text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as refused:
        told_by_file(root, text)
    assert "no-base64" not in str(refused.value)


def test_an_unknown_argument_and_a_file_that_is_none(root: Path) -> None:
    (root / "proc/cmdline").write_text("hpc_compute.contollers=ctl\n")
    with pytest.raises(SourceError, match="found 'contollers'"):
        read(root)
    (root / sources.FILE).mkdir()
    with pytest.raises(SourceError, match="can't be read"):
        read(root)


class World:
    """A machine, and what the program does to it."""

    def __init__(self, root: Path, gres: str = "gpu:h100:1", rc: int = 0) -> None:
        self.owned: list[tuple[str, str, str]] = []
        self.commands: list[list[str]] = []
        self.out, self.err = io.StringIO(), io.StringIO()
        self._rc = rc
        self.outside = main.Outside(root, {}, self._chown, self._run, lambda _: gres, out=self.out, err=self.err)

    def _chown(self, path: Path, user: str, group: str) -> None:
        assert path.stat().st_mode & 0o077 == 0, "a key that others could read for a moment"
        self.owned.append((path.name, user, group))

    def _run(self, command: Sequence[str]) -> Completed:
        self.commands.append(list(command))
        return Completed(self._rc, "", "no such unit")


def test_it_joins_once(root: Path) -> None:
    (root / sources.FILE).write_text(f"controllers = ctl1,ctl2\nmunge_key = {TEXT}\n")
    world = World(root)
    assert main.main([], world.outside) == main.EXIT_JOINED
    key = root / apply.MUNGE_KEY
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (KEY, 0o400)
    assert world.owned == [(".munge.key.join", "munge", "munge")]
    assert (root / apply.OPTIONS).read_text().splitlines()[1] == "SLURMD_OPTIONS='--conf-server ctl1,ctl2'"
    assert world.commands == []
    assert main.main(["--restart"], world.outside) == main.EXIT_JOINED
    assert world.commands == [], "nothing was new"
    assert sorted(path.name for path in (root / "etc/munge").iterdir()) == ["munge.key"]


def test_a_dynamic_node_says_what_it_has(root: Path) -> None:
    (root / sources.FILE).write_text(f"controllers = ctl\nmunge_key = {TEXT}\nnode_name = n1\ndynamic = 1\n")
    assert main.main([], World(root).outside) == main.EXIT_JOINED
    text = (root / apply.OPTIONS).read_text()
    assert text.splitlines()[1] == "SLURMD_OPTIONS='--conf-server ctl -N n1 -Z --conf Gres=gpu:h100:1'"
    assert main.main([], World(root, gres="").outside) == main.EXIT_JOINED
    assert "--conf Gres" not in (root / apply.OPTIONS).read_text()


def test_what_comes_late_restarts_the_services(root: Path) -> None:
    world = World(root)
    assert main.main(["--restart"], world.outside) == main.EXIT_WAITING
    assert "was not told: controllers, munge_key" in world.err.getvalue()
    assert not (root / apply.OPTIONS).exists()
    (root / sources.FILE).write_text(f"controllers = ctl\nmunge_key = {TEXT}\n")
    assert main.main(["--restart"], world.outside) == main.EXIT_JOINED
    assert world.commands == [["systemctl", "--no-block", "restart", "munge.service", "slurmd.service"]]


def test_services_that_do_not_restart_are_told(root: Path) -> None:
    (root / sources.FILE).write_text(f"controllers = ctl\nmunge_key = {TEXT}\n")
    world = World(root, rc=5)
    assert main.main(["--restart"], world.outside) == main.EXIT_WRONG
    assert "no such unit" in world.err.getvalue()


def test_a_key_that_all_can_read_is_used_and_complained_about(root: Path) -> None:
    (root / "proc/cmdline").write_text(f"hpc_compute.controllers=ctl hpc_compute.munge_key={TEXT}\n")
    world = World(root)
    assert main.main([], world.outside) == main.EXIT_JOINED
    assert "every user can read it" in world.err.getvalue()
    assert TEXT not in world.err.getvalue() + world.out.getvalue()


def test_a_node_with_a_configuration_of_its_own_is_left_alone(root: Path) -> None:
    (root / "etc/slurm/slurm.conf").touch()
    assert main.main([], World(root).outside) == main.EXIT_JOINED
    assert not (root / apply.OPTIONS).exists()


def test_what_ansible_configured_stays_whatever_the_image_was_told(root: Path) -> None:
    (root / sources.FILE).write_text(f"controllers = old\nmunge_key = {TEXT}\n")
    (root / apply.MUNGE_KEY).write_bytes(b"rotated")
    template = REPO / "roles/slurm_compute/templates/slurmd.j2"
    templar = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701  # no HTML

    def write(image: bool) -> str:
        text = templar.from_string(template.read_text()).render(
            __slurm_compute_image=image, __slurm_compute_slurmd_options=["-N", "n1"]
        )
        (root / apply.OPTIONS).write_text(text)
        return text

    text = write(image=False)
    world = World(root)
    assert main.main(["--restart"], world.outside) == main.EXIT_JOINED
    assert "configured by Ansible, as /etc/default/slurmd says" in world.out.getvalue()
    assert (root / apply.OPTIONS).read_text() == text
    assert (root / apply.MUNGE_KEY).read_bytes() == b"rotated"
    assert world.commands == []

    write(image=True)
    assert main.main([], World(root).outside) == main.EXIT_JOINED
    assert "--conf-server old" in (root / apply.OPTIONS).read_text(), "an image that knows its controllers joins"
    assert (root / apply.MUNGE_KEY).read_bytes() == KEY


def test_bad_data_and_gpus_that_can_not_be_read_change_nothing(root: Path) -> None:
    (root / sources.FILE).write_text("controllers = a b c/d\n")
    world = World(root)
    assert main.main([], world.outside) == main.EXIT_WRONG
    assert "joins as soon as it can" in world.err.getvalue()

    def refused(_: Any) -> str:
        raise GresRefusedError("the driver does not answer")

    (root / sources.FILE).write_text(f"controllers = ctl\nmunge_key = {TEXT}\ndynamic = yes\n")
    outside = main.Outside(root, {}, world.outside.chown, world.outside.run, refused, out=world.out, err=world.err)
    assert main.main([], outside) == main.EXIT_WRONG
    assert "the driver does not answer" in world.err.getvalue()
    assert not (root / apply.OPTIONS).exists()
    assert not (root / apply.MUNGE_KEY).exists()


def test_nothing_is_written_without_a_key(root: Path) -> None:
    with pytest.raises(ValueError, match="expected a munge key"):
        apply.apply(Told(("ctl",)), root, lambda *_: None)


def test_commands_are_really_run() -> None:
    assert main.run_command(["sh", "-c", "echo out; echo err >&2; exit 3"]) == Completed(3, "out\n", "err\n")
