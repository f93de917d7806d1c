# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A recorded inventory that is none is told as such."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_what_is_no_dictionary_is_refused_by_type(data: Any) -> None:
    with pytest.raises(ValueError, match=f"as a dictionary, found {type(data).__name__}"):
        Inventory.from_dict(data)
