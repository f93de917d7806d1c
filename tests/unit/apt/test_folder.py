# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of package files: whole, replaced at once, and as they were when something is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.apt.flat import PackageError, index_text, read_package
from ansible_collections.hpc.compute.plugins.module_utils.apt.folder import (
    Offer,
    is_in_place,
    present_files,
    replace,
    to_transfer,
)
from ansible_collections.hpc.compute.plugins.module_utils.apt.repositories import Completed
from ansible_collections.hpc.compute.plugins.module_utils.apt.sources import RepositoryError

from .test_repositories import Apt

OK = Completed(0, "Get:1 file:/var/lib ./ InRelease\n", "")
BAD = Completed(100, "", "E: no\n")


def control(path: Path) -> str:
    """As dpkg-deb would: the files of these tests are their own control text."""
    text = path.read_text()
    if text == "broken":
        raise PackageError(f"{path.name}: expected a Debian package")
    return f"{text}\n"


def offer(root: Path, files: Mapping[str, str]) -> Offer:
    """The offer of files with these texts, which also lie in ``arrived``."""
    (root / "arrived").mkdir(exist_ok=True)
    for name, text in files.items():
        (root / "arrived" / name).write_text(text)
    return Offer("own", {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}, root)


def deb(version: str, name: str = "a") -> str:
    return f"Package: {name}\nVersion: {version}\nArchitecture: all"


ONE = {"a_1_all.deb": deb("1"), "b_1_all.deb": deb("1", "b")}
TWO = {"a_2_all.deb": deb("2"), "b_1_all.deb": deb("1", "b")}


def test_offered_replaced_and_left_alone(tmp_path: Path) -> None:
    apt = Apt([OK])
    first = offer(tmp_path, ONE)
    assert to_transfer(first) == sorted(ONE)
    assert present_files(first) == []
    changes = replace(apt.machine(tmp_path), first, tmp_path / "arrived", control)
    assert [str(change.path.name) for change in changes] == ["hpc-compute-own.sources"]
    assert is_in_place(first)
    release = (first.link / "Release").read_text()
    index = (first.link / "Packages").read_bytes()
    assert f" {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n" in release
    assert b"Filename: ./a_1_all.deb\nSize: 39\n" in index
    assert len(apt.asked) == 1
    assert replace(apt.machine(tmp_path), first, None, control) == []
    assert len(apt.asked) == 1, "apt was asked about what it knows"

    second = offer(tmp_path, TWO)
    assert to_transfer(second) == ["a_2_all.deb"]
    (tmp_path / "arrived/b_1_all.deb").unlink()  # it need not be copied again
    assert replace(apt.machine(tmp_path), second, tmp_path / "arrived", control) == []
    assert present_files(second) == sorted(TWO)
    assert len(apt.asked) == 2
    assert sorted(path.name for path in second.link.parent.iterdir()) == [second.folder.name, "own"]


def test_a_run_that_was_killed_before_apt_knew_is_finished(tmp_path: Path) -> None:
    apt = Apt([OK])
    one = offer(tmp_path, ONE)
    replace(apt.machine(tmp_path), one, tmp_path / "arrived", control)
    (one.folder / ".known").unlink()
    assert not is_in_place(one)
    assert replace(apt.machine(tmp_path), one, None, control) == []
    assert len(apt.asked) == 2
    assert is_in_place(one)


def test_a_damaged_folder_is_seen(tmp_path: Path) -> None:
    one = offer(tmp_path, ONE)
    replace(Apt([OK]).machine(tmp_path), one, tmp_path / "arrived", control)
    (one.folder / "a_1_all.deb").write_text("cut")
    assert not is_in_place(one)
    assert to_transfer(one) == ["a_1_all.deb"]
    (one.folder / "Packages").unlink()
    assert not is_in_place(one)


@pytest.mark.parametrize("was", [{}, ONE])
def test_what_was_offered_stays_when_something_is_wrong(tmp_path: Path, was: dict[str, str]) -> None:
    before = offer(tmp_path, was) if was else None
    if before:
        replace(Apt([OK]).machine(tmp_path), before, tmp_path / "arrived", control)
    broken = offer(tmp_path, {**TWO, "c_1_all.deb": "broken"})
    with pytest.raises(PackageError, match=r"c_1_all\.deb: expected a Debian package"):
        replace(Apt([OK]).machine(tmp_path), broken, tmp_path / "arrived", control)
    with pytest.raises(RepositoryError, match="E: no"):
        replace(Apt([BAD]).machine(tmp_path), offer(tmp_path, TWO), tmp_path / "arrived", control)
    lost = Offer("own", {"a_1_all.deb": "0" * 64}, tmp_path)
    with pytest.raises(PackageError, match="found another; copied while it changed"):
        replace(Apt([OK]).machine(tmp_path), lost, tmp_path / "arrived", control) if was else _lost(tmp_path, lost)
    gone = Offer("own", {"gone_1_all.deb": "0" * 64}, tmp_path)
    with pytest.raises(PackageError, match="found no such file"):
        replace(Apt([OK]).machine(tmp_path), gone, None, control)
    if before:
        assert is_in_place(before)
    else:
        assert not broken.link.exists()


def _lost(root: Path, lost: Offer) -> None:
    (root / "arrived/a_1_all.deb").write_text("other")
    replace(Apt([OK]).machine(root), lost, root / "arrived", control)


def test_packages_that_can_not_be_offered(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="expected package files"):
        Offer("own", {})
    with pytest.raises(RepositoryError, match="expected a name of small letters"):
        Offer("Own", {"a.deb": ""})
    with pytest.raises(PackageError, match=r"found '\.\./a\.deb'"):
        Offer("own", {"../a.deb": ""})
    for name in ("x.deb", "y.deb"):
        (tmp_path / name).write_text(deb("1"))
    both = [read_package(tmp_path / name, control) for name in ("x.deb", "y.deb")]
    with pytest.raises(PackageError, match=r"x\.deb and y\.deb are both a 1 all"):
        index_text(both)
    (tmp_path / "z.deb").write_text("Package: z\nArchitecture: all")
    with pytest.raises(PackageError, match=r"z\.deb: expected a field Version"):
        read_package(tmp_path / "z.deb", control)
