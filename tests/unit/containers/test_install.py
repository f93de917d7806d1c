# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing package files, with a machine that answers as recorded from apt 3.0 and dpkg 1.22."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.containers.install import (
    Identity,
    InstallError,
    Source,
    archive,
    check_identity,
    fetch,
    identify,
    install,
    lists_are_fresh,
    refresh,
)

_SUM = "26cf96e08fccb0e50ea0f285a5a19f940ee873d167a0680584fe6eba7d197d65"
_MISMATCH = """\
E: Failed to fetch http://mirror/a.deb  Hash Sum mismatch
   Hashes of expected file:
    - SHA256:16cf96e08fccb0e50ea0f285a5a19f940ee873d167a0680584fe6eba7d197d65
   Hashes of received file:
    - SHA256:26cf96e08fccb0e50ea0f285a5a19f940ee873d167a0680584fe6eba7d197d65
    - Filesize:18690072 [weak]
E: Download Failed
"""
_DEPENDS = """\
The following packages have unmet dependencies:
 apptainer : Depends: libfuse3-3 (>= 3.2.3) but it is not installable
"""


class Commands:
    """Answers commands in order, and remembers them."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self._answers = list(answers)
        self.given: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str, str]:
        self.given.append(list(command))
        return self._answers.pop(0)


def _never() -> None:
    raise AssertionError("lists were fetched without need")


def test_identity() -> None:
    assert identify("a.deb", Commands((0, "apptainer 1.5.4 amd64", ""))) == Identity("apptainer", "1.5.4", "amd64")
    with pytest.raises(InstallError, match=r"in a.deb; dpkg-deb: exit code 2, not a Debian format archive. Nothing"):
        identify("a.deb", Commands((2, "", "dpkg-deb: error\nnot a Debian format archive\n")))
    with pytest.raises(InstallError, match="exit code 0, no message"):
        identify("a.deb", Commands((0, "", "")))


@pytest.mark.parametrize(
    ("found", "version"),
    [("1.4.5-2", "1.4.5-2"), ("1.4.5-2", "1.4.5"), ("1.4.5", ""), ("1.5.4", "1.5.4")],
)
def test_the_right_package(found: str, version: str) -> None:
    check_identity(Identity("apptainer", found, "amd64"), "apptainer", version, "amd64", "url")
    check_identity(Identity("apptainer", found, "all"), "apptainer", version, "amd64", "url")


@pytest.mark.parametrize(
    "found",
    [
        Identity("apptainer", "1.5.40", "amd64"),
        Identity("apptainer", "1.5.4", "arm64"),
        Identity("apptainer-suid", "1.5.4", "amd64"),
    ],
)
def test_another_package(found: Identity) -> None:
    said = f"Expected apptainer 1.5.4 for amd64 in url, found {found.name} {found.version} for {found.architecture}. "
    with pytest.raises(InstallError, match=said):
        check_identity(found, "apptainer", "1.5.4", "amd64", "url")
    with pytest.raises(InstallError, match="Expected other of any version"):
        check_identity(found, "other", "", "amd64", "url")


def test_fetching(tmp_path: Path) -> None:
    run = Commands((0, "", ""))
    fetch(Source("apptainer", url="https://x/a.deb", sha256=_SUM.upper()), tmp_path / "a.deb", run)
    assert run.given == [
        ["/usr/lib/apt/apt-helper", "download-file", "https://x/a.deb", str(tmp_path / "a.deb"), f"SHA256:{_SUM}"]
    ]
    run = Commands((0, "http://mirror/debian/\nhttp://mirror/debian/\n", ""), (0, "", ""))
    fetch(Source("apptainer", pool="pool/a.deb", sha256=_SUM), tmp_path / "a.deb", run)
    assert run.given[1][2] == "http://mirror/debian/pool/a.deb"


def test_another_checksum_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "a.deb"
    (tmp_path / "a.deb.FAILED").touch()
    target.touch()
    with pytest.raises(InstallError) as caught:
        fetch(Source("apptainer", url="http://mirror/a.deb", sha256=_SUM), target, Commands((100, "", _MISMATCH)))
    assert f"Expected http://mirror/a.deb with the SHA-256 {_SUM}" in str(caught.value)
    assert f"(exit code 100): Hash Sum mismatch, received {_SUM}. Nothing was changed." in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_answer(tmp_path: Path) -> None:
    refused = "E: Failed to fetch http://x:9/a.deb  Could not connect to x:9 (10.0.0.1). - connect (111)\nE: x\n"
    source = Source("apptainer", url="http://x:9/a.deb", sha256=_SUM)
    with pytest.raises(InstallError, match=r"Could not connect to x:9 \(10.0.0.1\)"):
        fetch(source, tmp_path / "a", Commands((100, "", refused)))
    with pytest.raises(InstallError, match="no message"):
        fetch(source, tmp_path / "a", Commands((127, "", "")))


def test_the_archive_of_a_cloud_image(tmp_path: Path) -> None:
    (tmp_path / "etc/apt/mirrors").mkdir(parents=True)
    (tmp_path / "etc/apt/mirrors/debian.list").write_text("# first\n\nhttps://one/debian/ priority:1\nhttps://two\n")
    run = Commands((0, "mirror+file:/etc/apt/mirrors/debian.list/\n", ""))
    assert archive(run, tmp_path) == "https://one/debian"
    (tmp_path / "etc/apt/mirrors/debian.list").write_text("# none\n")
    with pytest.raises(InstallError, match="Expected a Debian archive"):
        archive(Commands((0, "mirror+file:/etc/apt/mirrors/debian.list/\n", "")), tmp_path)
    with pytest.raises(InstallError, match="Expected a Debian archive"):
        archive(Commands((0, "", "")), tmp_path)


def test_age_of_the_lists(tmp_path: Path) -> None:
    assert not lists_are_fresh(0, tmp_path)
    lists = tmp_path / "var/lib/apt/lists"
    (lists / "partial").mkdir(parents=True)
    (lists / "mirror_Packages").touch()
    for path in (lists / "partial", lists):
        os.utime(path, (1000, 1000))
    assert lists_are_fresh(4599, tmp_path)
    assert not lists_are_fresh(4600, tmp_path)
    os.utime(lists / "partial", (2000, 2000))
    assert lists_are_fresh(4600, tmp_path)
    (lists / "mirror_Packages").unlink()
    assert not lists_are_fresh(4600, tmp_path)


def _installing(
    *answers: tuple[int, str, str], absent: Sequence[str] = (), update: Callable[[], None] = _never
) -> Commands:
    # dpkg, which has nothing to finish; apt, which may remove nothing and refuses
    refusal = [] if absent else [(100, "", "E: Packages need to be removed but remove is disabled.\n")]
    run = Commands((0, "", ""), *refusal, *answers)
    install(["/a.deb", "squashfuse"], absent, run, update)
    return run


def test_a_trial_comes_first() -> None:
    run = _installing((0, "Inst apptainer\n", ""), (0, "", ""))
    assert run.given[0] == ["dpkg", "--configure", "--pending"]
    assert [("--simulate" in words) for words in run.given[2:]] == [True, False]
    assert run.given[3][-3:] == ["install", "/a.deb", "squashfuse"]
    assert "--allow-downgrades" in run.given[3]


def test_no_trial_where_nothing_may_be_removed() -> None:
    run = Commands((0, "", ""), (0, "", ""))
    install(["/a.deb", "squashfuse"], (), run, _never)
    assert run.given[1][-4:] == ["install", "--no-remove", "/a.deb", "squashfuse"]
    failed = "dpkg: error processing\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n"
    with pytest.raises(InstallError, match=r"failed with exit code 100: dpkg: error processing; E: Sub-process"):
        install(["/a.deb"], (), Commands((0, "", ""), (100, "", failed)), _never)


def test_what_is_unfinished_and_can_not_be_finished() -> None:
    with pytest.raises(InstallError, match=r"--pending' failed with exit code 1: too many errors. See 'dpkg --audit'"):
        install(["/a.deb"], (), Commands((1, "", "dpkg: error\ntoo many errors\n")), _never)


_DPKG_LOCKED = """\
dpkg: error: dpkg frontend lock was locked by another process with pid 712
Note: removing the lock file is always wrong, can damage the locked area
and the entire system. See <https://wiki.debian.org/Teams/Dpkg/FAQ#db-lock>.
"""
_APT_LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 712 (apt-get)\n"


def test_another_apt_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    install(["/a.deb"], (), Commands((2, "", _DPKG_LOCKED), (0, "", ""), (0, "", "")), _never)
    assert len(slept) == 1
    refresh(Commands((100, "", _APT_LOCKED), (100, "", _APT_LOCKED), (0, "", "")))
    assert len(slept) == 3
    slept.clear()
    with pytest.raises(InstallError, match=r"code 2: dpkg: error: dpkg frontend lock was locked by .* pid 712\. See"):
        install(["/a.deb"], (), lambda _: (2, "", _DPKG_LOCKED), _never)
    assert sum(slept) == 300


def test_fresh_lists_before_it_gives_up() -> None:
    updates = []
    run = _installing((100, "", "E: x\n"), (0, "", ""), (0, "", ""), update=lambda: updates.append(1))
    assert len(run.given) == 5
    assert updates == [1]
    with pytest.raises(InstallError) as caught:
        _installing((100, "", ""), (100, _DEPENDS, "E: Unable to correct problems\n"), update=lambda: None)
    assert "100: apptainer : Depends: libfuse3-3 (>= 3.2.3) but it is not installable; E: Unable" in str(caught.value)
    assert "Nothing was changed." in str(caught.value)


def test_what_is_removed() -> None:
    run = _installing((0, "Remv apptainer-suid [1.5.4]\n", ""), (0, "", ""), absent=["apptainer-suid"])
    assert run.given[2][-1] == "apptainer-suid-"
    with pytest.raises(InstallError, match="it would remove other, singularity-container"):
        _installing(
            (0, "Remv singularity-container [4]\nRemv other [1]\nRemv apptainer-suid [1]\n", ""),
            absent=["apptainer-suid"],
        )


def test_apt_fails_in_earnest() -> None:
    with pytest.raises(InstallError) as caught:
        _installing((0, "", ""), (100, "", "W: x\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n"))
    assert "failed with exit code 100: E: Sub-process" in str(caught.value)
    assert "Nothing was changed" not in str(caught.value)


def test_refreshing() -> None:
    refresh(Commands((0, "", "")))
    with pytest.raises(InstallError, match="exit code 100: Err:1 http://x; E: no network"):
        refresh(Commands((100, "Err:1 http://x\n", "E: no network\n")))
