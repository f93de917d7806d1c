# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories, package files, versions and holds, with the real apt of a node. Only what it offers is made here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.apt_repository import SignedRepository, SigningKey, make_deb, serve
from rig.node import Node

REPO = Path(__file__).resolve().parents[2]
_VENV = REPO / ".venv"
_PLAY = """
- hosts: all
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.import_role:
        name: hpc.compute.apt_packages
"""


@dataclass
class Said:
    """What a run of the role came to."""

    changed: int
    failed: int
    text: str
    failure: str


@dataclass
class Site:
    """A node, and a repository that it can reach with two versions of a stand-in package."""

    node: Node
    folder: Path
    key: SigningKey
    tree: SignedRepository
    url: str

    def repository(self, **other: Any) -> dict[str, Any]:
        described = {"name": "stand-in", "uris": [self.url], "suites": ["trixie"], "components": ["main"]}
        return {**described, "key": self.key.public, **other}

    def run(self, *words: str, **variables: Any) -> Said:
        """Run the role on the node."""
        return self.run_all(words, {self.node.name: variables})[self.node.name]

    def run_all(self, words: Sequence[str], cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Said]:
        """Run it on the node once for each case, each with variables of its own, in one run of Ansible."""
        inventory = self.folder / "hosts.json"
        hosts = {
            case: {**self.node.connection(), "apt_packages_names": ["stand-in-tool"], **variables}
            for case, variables in cases.items()
        }
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        playbook = self.folder / "play.yml"
        playbook.write_text(_PLAY)
        done = subprocess.run(
            [_VENV / "bin/ansible-playbook", "-i", inventory, playbook, *words],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(_VENV / "collections"),
                "ANSIBLE_CONFIG": str(REPO / "tests/rig/ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        text = done.stdout + done.stderr
        said = {}
        for case in cases:
            recap = re.search(rf"(?m)^{re.escape(case)} +: .*changed=(\d+) .*failed=(\d+)", text)
            assert recap, text
            failures = re.findall(rf"(?m)^fatal: \[{re.escape(case)}\]: .*", text)
            said[case] = Said(int(recap[1]), int(recap[2]), text, "".join(failures))
        return said

    def state(self, package: str = "stand-in-tool") -> str:
        """What dpkg says: wanted state, state, version."""
        form = "${db:Status-Want} ${db:Status-Status} ${Version}"
        return self.node.run(["dpkg-query", "-W", "-f", form, package], check=False).stdout

    def apt_files(self) -> list[str]:
        """What the role left in /etc/apt."""
        return sorted(
            str(path.relative_to(self.node.root)) for path in (self.node.root / "etc/apt").rglob("*hpc-compute*")
        )

    def apt_works(self) -> None:
        self.node.run(["apt-get", "-qq", "-oAPT::Update::Error-Mode=any", "update"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("apt")
    for version in ("1.0-1", "1.1-1", "2.0-1"):
        make_deb(folder / "debs", "stand-in-library", version)
        make_deb(
            folder / "debs",
            "stand-in-tool",
            version,
            fields={"Depends": f"stand-in-library (>= {version})"},
            files={"usr/bin/stand-in-tool": f"#!/bin/sh\necho {version}\n"},
        )
    key = SigningKey.make(folder / "key")
    tree = SignedRepository(folder / "tree", key)
    tree.publish({"main": sorted((folder / "debs").glob("*_1.*.deb"))})
    node = Node("it-apt", "10.213.97.85")
    node.up(gpus=None)
    try:
        with serve(tree.folder) as url:
            yield Site(node, folder, key, tree, url)
    finally:
        node.down()


def _without_nulls(described: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if value is not None}


def test_what_is_no_good_is_one_clear_error_and_leaves_apt_as_it_was(site: Site) -> None:
    stranger = SigningKey.make(site.folder / "stranger")
    bad: dict[str, dict[str, Any]] = {
        f"found {site.key.fingerprint}": {
            "key": None,
            "key_url": f"{site.url}/key.asc",
            "key_fingerprint": stranger.fingerprint,
        },
        "expected one of key, key_file and key_url, found none": {"key": None},
        f"expected a key at {site.url}/gone.asc, found: 404 ": {
            "key": None,
            "key_url": f"{site.url}/gone.asc",
            "key_fingerprint": site.key.fingerprint,
        },
        "Missing key": {"key": stranger.public},
        "Could not connect": {"uris": ["http://10.213.97.1:1"]},
        "does not have a Release file": {"suites": ["bookworm"]},
    }
    cases = {
        f"case{number}": {"apt_packages_repositories": [_without_nulls(site.repository(**change))]}
        for number, change in enumerate(bad.values())
    }
    for words, said in zip(bad, site.run_all((), cases).values(), strict=True):
        assert said.failed == 1, said.text
        assert words in said.failure, said.text
    assert not site.apt_files()
    site.apt_works()


def test_check_mode_before_the_first_run_tells_the_truth_and_changes_nothing(site: Site) -> None:
    said = site.run(
        "--check", "--diff", apt_packages_repositories=[site.repository()], apt_packages_hold=["stand-in-tool"]
    )
    assert said.failed == 0, said.text
    assert f"+URIs: {site.url}" in said.text
    assert "from a source to be enabled first: stand-in-tool" in said.text
    assert "Would be held: stand-in-tool" in said.text
    assert not site.apt_files()
    assert site.state() == ""
    said = site.run("--check", apt_packages_repositories=[site.repository(uris=["http://10.213.97.1:1"])])
    assert said.failed == 1, said.text
    assert "Could not connect" in said.text


def test_a_repository_by_the_fingerprint_of_its_key(site: Site) -> None:
    fetched = site.repository(key_url=f"{site.url}/key.asc", key_fingerprint=site.key.fingerprint.lower())
    del fetched["key"]
    pinned = {**fetched, "pin": [{"packages": ["stand-in-*"], "pin": "version 1.0*", "priority": 900}]}
    given = {"apt_packages_repositories": [pinned], "apt_packages_hold": ["stand-in-tool"]}
    said = site.run(**given)
    assert said.failed == 0, said.text
    assert site.state() == "hold installed 1.0-1", "the pin did not count, or the package is not held"
    assert site.node.run(["stand-in-tool"]).stdout == "1.0-1\n"
    site.apt_works()

    said = site.run(**given)
    assert (said.failed, said.changed) == (0, 0), said.text
    # the arguments, the list of sources, the sources, dpkg
    assert "ok=4 " in said.text, said.text


def test_versions_move_both_ways_and_a_held_package_is_held_again(site: Site) -> None:
    given = {"apt_packages_repositories": [site.repository()], "apt_packages_hold": ["stand-in-tool"]}
    said = site.run(**given, apt_packages_versions={"stand-in-tool": "3.*"})
    assert said.failed == 1, said.text
    for version in ("1.0-1", "1.1-1"):
        assert re.search(rf"stand-in-tool: expected version 3\.\*, found .*{version} from", said.text), said.text
    assert site.state() == "hold installed 1.0-1"

    # published since: the lists that apt has do not know it
    site.tree.publish({"main": sorted((site.folder / "debs").glob("*.deb"))})
    said = site.run("--check", **given, apt_packages_versions={"stand-in-tool": "2.*"})
    assert (said.failed, said.changed) == (0, 1), said.text
    assert site.state() == "hold installed 1.0-1"
    for wanted, found in {"2.*": "2.0-1", "1.1-1": "1.1-1"}.items():
        said = site.run(**given, apt_packages_versions={"stand-in-tool": wanted})
        assert said.failed == 0, said.text
        assert site.state() == f"hold installed {found}"
    said = site.run(**given, apt_packages_versions={"stand-in-tool": "1.1-1"})
    assert (said.failed, said.changed) == (0, 0), said.text


def test_package_files_are_offered_as_they_are_given(site: Site) -> None:
    own = site.folder / "own"
    first = make_deb(own, "stand-in-own", "1", fields={"Depends": "stand-in-part"})
    make_deb(own, "stand-in-part", "1")
    given: dict[str, Any] = {
        "apt_packages_names": ["stand-in-own"],
        "apt_packages_debs": {"name": "own", "directory": str(own)},
    }
    said = site.run("--check", "--diff", **given)
    assert said.failed == 0, said.text
    assert "+stand-in-part_1_all.deb" in said.text
    assert "etc/apt/sources.list.d/hpc-compute-own.sources" not in site.apt_files()
    said = site.run(**given)
    assert said.failed == 0, said.text
    assert site.state("stand-in-own") == "install installed 1"
    said = site.run(**given)
    assert (said.failed, said.changed) == (0, 0), said.text
    site.apt_works()

    place = site.node.root / "var/lib/hpc-compute/apt/own"
    broken = own / "stand-in-broken_1_all.deb"
    broken.write_text("no package")
    said = site.run(**given)
    assert said.failed == 1, said.text
    assert "stand-in-broken_1_all.deb: expected a Debian package" in said.text
    assert sorted(path.name for path in place.glob("*.deb")) == ["stand-in-own_1_all.deb", "stand-in-part_1_all.deb"]
    broken.unlink()

    first.unlink()
    make_deb(own, "stand-in-own", "2", fields={"Depends": "stand-in-part"})
    said = site.run(**given, apt_packages_versions={"stand-in-own": "2"})
    assert said.failed == 0, said.text
    assert site.state("stand-in-own") == "install installed 2"
    assert sorted(path.name for path in place.glob("*.deb")) == ["stand-in-own_2_all.deb", "stand-in-part_1_all.deb"]
    assert len(list(place.parent.iterdir())) == 2, "the packages of the run before are still there"
