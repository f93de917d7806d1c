# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's Prometheus in a node, and the questions that tests ask it."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rig.node import Node
from rig.process import wait_for

_PORT = 9090
CONFIG = """\
global:
  evaluation_interval: 1s
scrape_config_files: [/etc/prometheus/hpc-compute/scrape.yml]
rule_files: [/etc/prometheus/hurried.rules.yml]
"""


@dataclass(frozen=True)
class Prometheus:
    """It listens on all of the node's addresses."""

    node: Node

    def install(self) -> None:
        """From Debian, not started: it has no configuration yet."""
        script = (
            "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d;"
            "export DEBIAN_FRONTEND=noninteractive; apt-get -qq -y --no-install-recommends install prometheus;"
            "rm /usr/sbin/policy-rc.d"
        )
        self.node.run(["sh", "-ec", script])
        self.write("/etc/prometheus/prometheus.yml", CONFIG)

    def write(self, path: str, text: str) -> None:
        self.node.run(["sh", "-ec", f"cat > {path}"], stdin=text)

    def start(self) -> None:
        """With the alerts of the collection, only without their patience."""
        self.hurry()
        self.node.run(["promtool", "check", "config", "/etc/prometheus/prometheus.yml"])
        self.node.run(["systemctl", "restart", "prometheus"])
        wait_for("Prometheus to answer", self._ready, seconds=30)

    def hurry(self) -> None:
        self.node.run(
            [
                "sh",
                "-ec",
                "sed -E 's/^( +for:) .*/\\1 0s/; s/\\[5m\\]/[5s]/' /etc/prometheus/hpc-compute/hpc-compute.rules.yml"
                " > /etc/prometheus/hurried.rules.yml",
            ]
        )

    def _ready(self) -> bool:
        try:
            return self._get("/-/ready") == b"Prometheus Server is Ready.\n"
        except OSError:
            return False

    def _get(self, path: str, **query: str) -> bytes:
        url = f"http://{self.node.ip}:{_PORT}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bytes(answer.read())

    def ask(self, path: str, **query: str) -> Any:
        answer = json.loads(self._get(f"/api/v1/{path}", **query))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The instant vector of *expression*: labels and value of each series."""
        found = self.ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def firing(self) -> Iterator[Mapping[str, str]]:
        """Labels of the alerts that fire."""
        for alert in self.ask("alerts")["alerts"]:
            if alert["state"] == "firing":
                yield alert["labels"]

    def await_alert(self, name: str, there: bool, /, **labels: str) -> None:
        """Wait until an alert fires, or has ended."""
        wanted = {"alertname": name, **labels}

        def reached() -> bool:
            return any(wanted.items() <= one.items() for one in self.firing()) is there

        wait_for(f"the alert {name} {labels} to {'fire' if there else 'end'}", reached, seconds=30)

    def await_value(self, expression: str, right: Callable[[list[tuple[Mapping[str, str], float]]], bool]) -> None:
        wait_for(f"{expression} to be right", lambda: right(self.query(expression)), seconds=30)
