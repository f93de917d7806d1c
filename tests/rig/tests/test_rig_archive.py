# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where nodes take their packages from, for every form that a machine's apt sources may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import archive
from rig.process import Completed, RigError

_MAIN = "Debian|Debian|main|http://mirror.example/debian/"
_SECURITY = "Debian|Debian-Security|main|http://mirror.example/security/"


def _machine(monkeypatch: pytest.MonkeyPatch, listings: list[str], proxies: str = "") -> list[list[str]]:
    """A machine on which apt says *listings*, one for each time it is asked. Returns the commands that were run."""
    commands = []

    def run(command: list[str]) -> Completed:
        commands.append(command)
        said = {"indextargets": lambda: listings.pop(0), "dump": lambda: proxies}.get(command[1], lambda: "")()
        return Completed(command, 0, stdout=said, stderr="")

    monkeypatch.setattr(archive, "run", run)
    return commands


def test_main_and_security_come_from_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    others = "Docker|Docker CE|stable|https://docker.example\nDebian|Debian|contrib|http://contrib.example/debian/"
    _machine(monkeypatch, [f"{others}\n{_MAIN}\n{_SECURITY}\n"])
    found = archive.of_this_machine()
    assert (found.main, found.security) == ("http://mirror.example/debian", "http://mirror.example/security")
    assert found.deb822().count("Components: main\n") == 2
    assert found.one_line_sources()[2] == "deb http://mirror.example/security trixie-security main"


def test_a_machine_without_security_suite_has_nodes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, [_MAIN])
    found = archive.of_this_machine()
    assert found.security is None
    assert len(found.one_line_sources()) == 2
    assert "security" not in found.deb822()


def test_a_list_of_mirrors_stands_for_its_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.write_text("# comment\n\nhttp://first.example/debian\tpriority:1\nhttp://second.example/debian\n")
    _machine(monkeypatch, [f"Debian|Debian|main|mirror+file://{mirrors}/"])
    assert archive.of_this_machine().main == "http://first.example/debian"


def test_an_empty_list_of_mirrors_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.write_text("# none\n")
    _machine(monkeypatch, [f"Debian|Debian|main|mirror+file:{mirrors}/"])
    with pytest.raises(RigError, match=f"expected a mirror in {mirrors}"):
        archive.of_this_machine()


def test_lists_are_fetched_when_apt_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _machine(monkeypatch, ["", _MAIN])
    assert archive.of_this_machine().main == "http://mirror.example/debian"
    assert ["apt-get", "-q", "update"] in commands


def test_a_machine_without_a_debian_archive_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cdrom = "Debian|Debian|main|cdrom:[Debian 13]/"
    _machine(monkeypatch, [cdrom, cdrom])
    with pytest.raises(RigError, match="expected a Debian archive"):
        archive.of_this_machine()


def test_proxies_that_are_set_go_to_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = 'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::https::Proxy "";\n'
    _machine(monkeypatch, [_MAIN], settings)
    assert archive.of_this_machine().proxies == ('Acquire::http::Proxy "http://proxy.example:3128";',)
