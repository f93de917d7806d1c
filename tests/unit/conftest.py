# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules run in the tests' own process, where Ansible keeps what the one before has warned of."""

from __future__ import annotations

import pytest
from ansible.module_utils.common import warnings


@pytest.fixture(autouse=True)
def no_warnings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test as the process of a module begins."""
    monkeypatch.setattr(warnings, "_global_warnings", {})
