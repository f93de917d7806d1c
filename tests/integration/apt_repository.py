# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package repositories for tests: stand-in packages, signed by a key made here, offered by file or over HTTP.

What stands in for a vendor's package is made with ``dpkg-deb`` and says so in a control field ``Stand-In``; apt, its
signature check and dpkg are the real ones.

    workshop = tmp_path_factory.mktemp("apt")
    make_deb(workshop / "debs", "vendor-tool", "1.0", files={"usr/bin/vendor-tool": "#!/bin/sh\\necho 1.0\\n"})
    make_deb(workshop / "debs", "vendor-tool", "1.1", fields={"Depends": "vendor-lib (>= 1)"}, scripts=SCRIPTS)
    key = SigningKey.make(workshop / "key")
    tree = SignedRepository(workshop / "tree", key, suite="trixie")
    tree.publish({"main": sorted((workshop / "debs").glob("*.deb"))})     # again to change what is there
    with serve(tree.folder) as url:                                       # http://10.213.97.1:PORT, while a node is up
        repository = {"name": "vendor", "uris": [url], "suites": ["trixie"], "components": ["main"], "key": key.public}

``repository`` is then an entry of ``apt_packages_repositories``. A flat repository (``suites: ["./"]``, no components)
is ``SignedRepository(folder, key, suite=None)`` with ``publish({"": debs})``. ``key.fingerprint`` is for
``key_fingerprint``; the tree has the public key in ``key.asc`` for ``key_url``. A folder of files made with
``make_deb`` is what ``apt_packages_debs`` takes as ``directory``. ``repack`` makes a real package a stand-in under
another name or version. gpg and dpkg-deb must be on the host (tests/rig/packages.txt).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rig import network


def make_deb(
    folder: Path,
    name: str,
    version: str,
    *,
    architecture: str = "all",
    fields: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    scripts: Mapping[str, str] | None = None,
    conffiles: Sequence[str] = (),
) -> Path:
    """Make the package *name* in *folder* and return its file.

    :param fields: more control fields, e.g. ``{"Depends": "libc6", "Conflicts": "slurmd"}``.
    :param files: text by path, relative to the root; what begins with ``#!`` is made executable.
    :param scripts: maintainer scripts, ``postinst`` and the like, whole with their ``#!`` line.
    :param conffiles: absolute paths among *files* that dpkg treats as configuration.
    """
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        for path, text in (files or {}).items():
            _write(tree / path, text)
        _control(tree, {"Package": name, "Version": version, "Architecture": architecture}, fields or {})
        for script, text in (scripts or {}).items():
            _write(tree / "DEBIAN" / script, text)
            (tree / "DEBIAN" / script).chmod(0o755)
        if conffiles:
            _write(tree / "DEBIAN/conffiles", "".join(f"{path}\n" for path in conffiles))
        return build(tree, folder)


def repack(
    deb: Path,
    folder: Path,
    *,
    fields: Mapping[str, str | None],
    replace: Mapping[str, str] | None = None,
    move: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
    copy: Mapping[str, Path] | None = None,
) -> Path:
    """Make of the real package *deb* another one in *folder*, with the same files.

    :param fields: control fields to set, or with ``None`` to leave out.
    :param replace: text of files to write or overwrite, by path relative to the root.
    :param move: files and folders to move, old path to new path.
    :param remove: files and folders to leave out, ``DEBIAN/postinst`` for one. Done before *replace*.
    :param copy: files to add, by path relative to the root.
    """
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        _run(["dpkg-deb", "--raw-extract", deb, tree])
        for old, new in (move or {}).items():
            (tree / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(tree / old, tree / new)
        for path in remove:
            shutil.rmtree(tree / path) if (tree / path).is_dir() else (tree / path).unlink()
        for path, text in (replace or {}).items():
            _write(tree / path, text)
        for path, source in (copy or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, tree / path)
        control = tree / "DEBIAN/control"
        kept: list[str] = []
        skipping = False
        for line in control.read_text(encoding="utf-8").splitlines():
            if not line.startswith((" ", "\t")):
                skipping = line.partition(":")[0] in fields
            if not skipping:
                kept.append(line)
        kept[1:1] = [f"{key}: {value}" for key, value in fields.items() if value is not None and key != "Package"]
        if name := fields.get("Package"):
            kept.insert(0, f"Package: {name}")
        control.write_text("\n".join(kept) + "\n", encoding="utf-8")
        (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
        return build(tree, folder)


def build(tree: Path, folder: Path) -> Path:
    """The package of the files and ``DEBIAN/`` in *tree*, named as Debian names packages."""
    folder.mkdir(parents=True, exist_ok=True)
    control = tree / "DEBIAN/control"
    control.write_text(f"{control.read_text(encoding='utf-8').rstrip()}\nStand-In: made for a test\n", encoding="utf-8")
    done = _run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, folder])
    return Path(done.split("'")[3])


@dataclass(frozen=True)
class SigningKey:
    """A key made for a test. *home* is gpg's folder; *public* the ASCII-armoured text that apt is given."""

    home: Path
    fingerprint: str
    public: str

    @classmethod
    def make(cls, home: Path) -> SigningKey:
        home.mkdir(mode=0o700, parents=True)
        gpg: list[str | Path] = ["gpg", "--homedir", home, "--batch", "--quiet"]
        who = "stand-in repository <root@localhost>"
        _run([*gpg, "--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "never"])
        listed = _run([*gpg, "--with-colons", "--list-keys"])
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        public = _run([*gpg, "--armor", "--export", fingerprint])
        # the agent would otherwise stay for as long as its folder
        _run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"])
        return cls(home, fingerprint, public)

    def sign(self, source: Path, target: Path) -> None:
        """Write *source* with a signature around it (as in InRelease) to *target*."""
        target.unlink(missing_ok=True)
        _run(["gpg", "--homedir", self.home, "--batch", "--quiet", "--output", target, "--clearsign", source])
        _run(["gpgconf", "--homedir", self.home, "--kill", "gpg-agent"])


@dataclass(frozen=True)
class SignedRepository:
    """A repository in *folder*, signed by *key* (``None``: unsigned). *suite* ``None`` makes it a flat one."""

    folder: Path
    key: SigningKey | None
    suite: str | None = "trixie"
    components: Sequence[str] = ("main",)
    architecture: str = "amd64"

    def publish(self, packages: Mapping[str, Sequence[Path]]) -> None:
        """Offer exactly these packages, by component."""
        shutil.rmtree(self.folder, ignore_errors=True)
        top = self.folder / "dists" / self.suite if self.suite else self.folder
        top.mkdir(parents=True)
        indexes = []
        for component, debs in packages.items():
            pool = f"pool/{component}" if self.suite else "."
            (self.folder / pool).mkdir(parents=True, exist_ok=True)
            stanzas = []
            for deb in debs:
                shutil.copyfile(deb, self.folder / pool / deb.name)
                checksum = hashlib.sha256(deb.read_bytes()).hexdigest()
                fields = _run(["dpkg-deb", "--field", deb]).strip()
                place = f"Filename: {pool}/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {checksum}"
                stanzas.append(f"{fields}\n{place}\n")
            index = top / (f"{component}/binary-{self.architecture}/Packages" if self.suite else "Packages")
            index.parent.mkdir(parents=True, exist_ok=True)
            index.write_text("\n".join(stanzas), encoding="utf-8")
            indexes.append(index)
        release = top / "Release"
        head = "Origin: stand-in\nLabel: stand-in\n"
        if self.suite:
            head += f"Suite: {self.suite}\nCodename: {self.suite}\nArchitectures: {self.architecture} all\n"
            head += f"Components: {' '.join(packages)}\n"
        sums = [
            f" {hashlib.sha256(index.read_bytes()).hexdigest()} {index.stat().st_size} {index.relative_to(top)}"
            for index in indexes
        ]
        release.write_text(
            f"{head}Date: {formatdate(usegmt=True)}\nSHA256:\n" + "\n".join(sums) + "\n", encoding="utf-8"
        )
        if self.key:
            self.key.sign(release, top / "InRelease")
            (self.folder / "key.asc").write_text(self.key.public, encoding="utf-8")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve *folder* over HTTP to the rig's nodes; the URL. A node must be up, whose network has the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing: pytest would show it."""

    server = ThreadingHTTPServer((network.GATEWAY, 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{network.GATEWAY}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _control(tree: Path, first: Mapping[str, str], more: Mapping[str, str]) -> None:
    made_up = {"Maintainer": "stand-in <root@localhost>", "Description": f"stand-in for tests: {first['Package']}"}
    fields = {**first, **made_up, **more}
    _write(tree / "DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in fields.items()))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755 if text.startswith("#!") else 0o644)


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout
