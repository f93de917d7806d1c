# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for dcgm-exporter 4.8.2: its options, counters file, metric names, labels, job mapping and web
configuration.

It refuses what the real one refuses: an unknown option; a counters file that is missing, or has a field or type that
does not exist; a host engine that does not answer, an embedded one without root; a web configuration with an unknown
key, with a certificate that can't be read, or with what is no bcrypt hash.
"""

from __future__ import annotations

import argparse
import base64
import csv
import http.server
import json
import os
import re
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import yaml

from . import fields

_TYPES = ("gauge", "counter", "label", "histogram", "summary")
_WEB_KEYS = {
    "tls_server_config": {"cert_file", "key_file", "client_auth_type", "client_ca_file", "min_version"},
    "basic_auth_users": None,
}
_JOB_FILE = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Counter:
    field: str
    kind: str
    help: str


def read_counters(path: Path) -> list[Counter]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    except OSError as error:
        sys.exit(f"could not open the collectors file {path}: {error.strerror}")
    found = []
    for row in csv.reader(lines):
        words = [word.strip() for word in row]
        if len(words) != 3:
            sys.exit(f"malformed CSV record; failed to parse line with {len(words)} parts: {', '.join(words)}")
        if words[0] not in fields.KNOWN:
            sys.exit(f"could not find DCGM field {words[0]}")
        if words[1] not in _TYPES:
            sys.exit(f"could not find Prometheus metric type {words[1]}")
        found.append(Counter(*words))
    return found


class Web:
    """The configuration of exporter-toolkit, read anew for each request, as that one does."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        data = yaml.safe_load(self._path.read_text()) or {}
        for key, value in data.items():
            if key not in _WEB_KEYS:
                raise ValueError(f"field {key} not found in type web.Config")
            unknown = set(value) - (_WEB_KEYS[key] or set(value))
            if unknown:
                raise ValueError(f"field {unknown.pop()} not found in type web.TLSConfig")
        for hashed in data.get("basic_auth_users", {}).values():
            if not re.fullmatch(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", hashed):
                raise ValueError("crypto/bcrypt: hashedSecret is no bcrypt hash")
        return data

    def context(self) -> ssl.SSLContext | None:
        tls = self.read().get("tls_server_config")
        if tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls["cert_file"], tls["key_file"])
        if tls.get("client_auth_type") == "RequireAndVerifyClientCert":
            context.load_verify_locations(tls["client_ca_file"])
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def allows(self, header: str | None) -> bool:
        users = self.read().get("basic_auth_users")
        if not users:
            return True
        kind, _, encoded = (header or "").partition(" ")
        if kind.lower() != "basic":
            return False
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user in users and bcrypt.checkpw(password.encode(), users[user].encode())


def ask(engine: str | None) -> list[dict[str, Any]]:
    """Every GPU and MIG instance, from the host engine, or from the one in this process."""
    if engine is None:
        return fields.read(profiling=Path("/usr/lib/x86_64-linux-gnu/libdcgmmoduleprofiling.so.4").exists())
    host, _, port = engine.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        return json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))  # type: ignore[no-any-return]


def jobs_of(folder: Path | None) -> dict[str, list[str]]:
    if folder is None or not folder.is_dir():
        return {}
    return {path.name: path.read_text().split() for path in folder.iterdir() if _JOB_FILE.fullmatch(path.name)}


def metrics(entities: list[dict[str, Any]], counters: list[Counter], jobs: dict[str, list[str]], host: str) -> str:
    """The page. A value that an entity does not have is left out, and a metric without values too."""
    labels = [one.field for one in counters if one.kind == "label"]
    lines = []
    for counter in counters:
        if counter.kind == "label":
            continue
        found = []
        for entity in entities:
            own = {**entity["labels"], "Hostname": host}
            own |= {name: entity["driver"] for name in labels if name in fields.LABELS}
            device = own["gpu"] + (f".{own['GPU_I_ID']}" if "GPU_I_ID" in own else "")
            if counter.field == fields.XID_COUNT:
                values = [({**own, "window_size_in_ms": "300000", "xid": xid}, n) for xid, n in entity["xids"].items()]
            elif counter.field in entity["values"]:
                values = [(own, entity["values"][counter.field])]
            else:
                continue
            for one, value in values:
                for job in jobs.get(device) or [""]:
                    with_job = one if not job else {**one, "hpc_job": job}
                    inner = ",".join(f'{name}="{text}"' for name, text in with_job.items())
                    found.append(f"{counter.field}{{{inner}}} {value}")
        if found:
            lines += [f"# HELP {counter.field} {counter.help}", f"# TYPE {counter.field} {counter.kind}", *found]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dcgm-exporter", allow_abbrev=False)
    parser.add_argument("-f", "--collectors", type=Path, default=Path("/etc/dcgm-exporter/default-counters.csv"))
    parser.add_argument("-a", "--address", default=":9400")
    parser.add_argument("-c", "--collect-interval", type=int, default=30000)
    parser.add_argument("-r", "--remote-hostengine-info")
    parser.add_argument("-d", "--devices", choices=["f"], default="f")
    parser.add_argument("--hpc-job-mapping-dir", type=Path)
    parser.add_argument("--web-config-file", type=Path)
    options = parser.parse_args()
    if options.remote_hostengine_info is None and os.geteuid() != 0:
        sys.exit("Host engine is running as non-root")
    counters = read_counters(options.collectors)
    web = Web(options.web_config_file)
    for attempt in range(20):
        try:
            ask(options.remote_hostengine_info)
            break
        except OSError as error:
            if attempt == 19:
                sys.exit(f"Error connecting to nv-hostengine: {error}")
            time.sleep(0.1)
    state: dict[str, Any] = {"read": 0.0, "entities": []}

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not web.allows(self.headers.get("Authorization")):
                self._answer(401, "Unauthorized\n")
            elif self.path == "/health":
                self._answer(200, "KO" if state["entities"] is None else "OK")
            elif self.path == "/metrics":
                if time.monotonic() - state["read"] >= options.collect_interval / 1000:
                    state.update(read=time.monotonic(), entities=ask(options.remote_hostengine_info))
                found = jobs_of(options.hpc_job_mapping_dir)
                self._answer(200, metrics(state["entities"], counters, found, socket.gethostname()))
            else:
                self._answer(404, "not found\n")

        def _answer(self, code: int, text: str) -> None:
            self.send_response(code)
            if code == 401:
                self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Nothing for each request, as the real one."""

    host, _, port = options.address.rpartition(":")
    try:
        context = web.context()
        server = http.server.ThreadingHTTPServer((host.strip("[]"), int(port)), Page)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"Failed to start the HTTP server: {error}")
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
