# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw a node: standard input is JSON with ``inventory`` (of ``gpu_info``), ``labels`` (by device UUID) and ``width``.

Run with the virtual environment's Python and the collection on the module path: it draws with the collection's code.
"""

from __future__ import annotations

import json
import sys

from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig.draw import draw

if __name__ == "__main__":
    data = json.load(sys.stdin)
    print(draw(Inventory.from_dict(data["inventory"]), data["labels"], data["width"]))
