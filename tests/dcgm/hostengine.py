# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for DCGM's nv-hostengine: takes the options of its unit, and answers on port 5555 with the GPUs as JSON.

The real one speaks a protocol of its own. What this one has in common with it: it refuses unknown options, needs root
and the account it is told to use, and does not start without a driver.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import socketserver
import sys
from pathlib import Path

import pynvml

from . import fields

#: Of the closed package datacenter-gpu-manager-4-proprietary.
_PROFILING = Path("/usr/lib/x86_64-linux-gnu/libdcgmmoduleprofiling.so.4")


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(json.dumps(fields.read(_PROFILING.exists())).encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser(prog="nv-hostengine", allow_abbrev=False)
    parser.add_argument("-n", "--no-daemon", action="store_true")
    parser.add_argument("-p", "--port", type=int, default=5555)
    parser.add_argument("-b", "--bind-interface", default="127.0.0.1")
    parser.add_argument("--service-account")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("Host engine is running as non-root")
    if options.service_account:
        try:
            pwd.getpwnam(options.service_account)
        except KeyError:
            sys.exit(f"the service account {options.service_account} does not exist")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        sys.exit(f"NVML does not work: {error}")
    with _Server((options.bind_interface, options.port), _Answer) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
