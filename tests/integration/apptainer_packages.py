# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Apptainer for the tests, and what is made of it.

The program is Debian unstable's package, which installs on Debian 13; a node fetches it once, through its own mirror
and checked by apt. Other versions are the same files in a package with another number: they stand in for the project's
releases, which can't be had from a Debian mirror. The setuid package is a stand-in without a program in it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rig.network import GATEWAY
from rig.process import run


def version_of(package: Path) -> str:
    return run(["dpkg-deb", "--field", package, "Version"]).stdout.strip()


class Releases:
    """A folder laid out as the project's release pages, ``vVERSION/apptainer_VERSION-trixie+_amd64.deb``."""

    def __init__(self, folder: Path, original: Path) -> None:
        self.folder = folder
        self._tree = folder / "tree"
        run(["dpkg-deb", "--raw-extract", original, self._tree])
        self._control = (self._tree / "DEBIAN/control").read_text()

    def add(self, version: str, *, depends: str = "", kind: str = "-trixie+") -> str:
        """The same Apptainer as another version, with more dependencies; its SHA-256."""
        lines = [
            f"Version: {version}" if line.startswith("Version:") else line
            for line in self._control.splitlines()
            if not line.startswith(("Built-Using:", "Static-Built-Using:"))
        ]
        lines = [f"{line}, {depends}" if depends and line.startswith("Depends:") else line for line in lines]
        return self._build(self._tree, "\n".join(lines), f"v{version}/apptainer_{version}{kind}_amd64.deb")

    def add_setuid(self, version: str) -> str:
        """A stand-in for ``apptainer-suid``: the true name and dependency, and no program."""
        control = (
            f"Package: apptainer-suid\nVersion: {version}\nArchitecture: amd64\n"
            f"Maintainer: nobody <nobody@example.org>\nDepends: apptainer (= {version})\n"
            "Description: stand-in for tests, without a setuid program"
        )
        tree = self.folder / "setuid"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        return self._build(tree, control, f"v{version}/apptainer-suid_{version}-trixie+_amd64.deb")

    def _build(self, tree: Path, control: str, name: str) -> str:
        (tree / "DEBIAN/control").write_text(f"{control}\n")
        target = self.folder / name
        target.parent.mkdir(exist_ok=True)
        run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, target])
        return hashlib.sha256(target.read_bytes()).hexdigest()


def repository(folder: Path, package: Path) -> None:
    """A flat apt repository without a signature: *package* and the index of it."""
    folder.mkdir(parents=True)
    shutil.copyfile(package, folder / package.name)
    content = package.read_bytes()
    fields = run(["dpkg-deb", "--field", package]).stdout.rstrip()
    (folder / "Packages").write_text(
        f"{fields}\nFilename: ./{package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL under which nodes find *folder*."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    with _server(partial(Quiet, directory=str(folder))) as url:
        yield url


class Registry(BaseHTTPRequestHandler):
    """A registry of images that has one, ``site/tools``, under every tag: as much of the protocol as a pull needs."""

    asked: list[str]
    content: dict[str, tuple[str, bytes]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind, body = self.content.get(self.path, ("", b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def registry(busybox: bytes) -> Iterator[tuple[str, list[str]]]:
    """A registry whose image has *busybox* as its shell; its ``host:port`` and the list of what it was asked."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, mode, data in (("bin/sh", 0o755, busybox), ("made-by-mirror", 0o644, b"yes\n")):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(data)
            archive.addfile(entry, io.BytesIO(data))
    packed = gzip.compress(layer.getvalue(), 1)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
        }
    ).encode()
    oci = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": {"mediaType": f"{oci}.config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{oci}.layer.v1.tar+gzip", "digest": _digest(packed), "size": len(packed)}],
        }
    ).encode()
    asked: list[str] = []
    content = {"/v2/": ("application/json", b"{}")}
    for name, kind, body in (
        ("manifests/latest", f"{oci}.manifest.v1+json", manifest),
        (f"manifests/{_digest(manifest)}", f"{oci}.manifest.v1+json", manifest),
        (f"blobs/{_digest(config)}", "application/octet-stream", config),
        (f"blobs/{_digest(packed)}", "application/octet-stream", packed),
    ):
        content[f"/v2/site/tools/{name}"] = (kind, body)
    handler = type("Handler", (Registry,), {"asked": asked, "content": content})
    with _server(handler) as url:
        yield url.removeprefix("http://"), asked


@contextmanager
def _server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer((GATEWAY, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{GATEWAY}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
