# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failed test of any scenario shows: the logs of the services it looked at."""

from __future__ import annotations

from collections.abc import Generator

import pytest

_LOGS = """
systemctl --failed --no-legend --plain
journalctl --boot --no-pager --lines=40 --unit=slurmd.service --unit=munge.service --unit=emulated-gpu.service
tail -n 30 /var/log/slurm/slurmd.log
scontrol show node
squeue --long
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of the node to the report of a test that failed on it."""
    report = yield
    if report.failed and (host := getattr(item, "funcargs", {}).get("host")):
        for command in _LOGS.strip().splitlines():
            done = host.run(command)
            report.sections.append((command, done.stdout + done.stderr))
    return report
