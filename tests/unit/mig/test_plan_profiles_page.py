# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of profiles is what its generator makes of the catalogue."""

from __future__ import annotations

import runpy
from pathlib import Path

GENERATOR = Path(__file__).parents[3] / "docs/mig_profiles.py"


def test_the_page_is_in_step_with_the_catalogue() -> None:
    made = runpy.run_path(str(GENERATOR))["page"]()
    written = GENERATOR.with_suffix(".md").read_text(encoding="utf-8")
    assert written == made, "run docs/mig_profiles.py"
    assert "`half` is `3g.40gb`" in made
