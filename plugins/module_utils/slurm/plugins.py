# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plugins that slurm.conf names, and the files of those that are installed.

slurmd 24.11.5 starts without a plugin that only its step daemons load (``TaskPlugin=task/none_such``), and so does
``slurmd -G``; the first job then fails. Others (``ProctrackType``, ``PrepPlugins``) it misses when it starts.
"""

from __future__ import annotations

import re
from pathlib import Path

from .publish import conf_files

#: What step daemons load by name, as far as a missing file is an error.
_KEYS = "AcctGatherEnergyType|JobAcctGatherType|JobContainerType|PrepPlugins|ProctrackType|SwitchType|TaskPlugin"
_SETTING = re.compile(rf"(?im)^[ \t]*({_KEYS})[ \t]*=[ \t]*([^\s#]+)")
_FOLDER = re.compile(r"(?im)^[ \t]*PluginDir[ \t]*=[ \t]*([^\s#]+)")
#: Where Debian's and SchedMD's packages have them.
_FOLDERS = ("usr/lib/*/slurm-wlm", "usr/lib/*/slurm", "usr/lib/slurm", "usr/lib64/slurm")


def missing_plugins(slurm_conf: Path, root: Path) -> list[str]:
    """A sentence for each plugin in *slurm_conf* of which there is no file; none where no folder of plugins is known.

    :param root: the machine's root.
    :raises PublishError: a file that slurm.conf includes can't be read.
    """
    texts = [text for _, text in conf_files(slurm_conf)]
    named = [folder for text in texts for found in _FOLDER.findall(text) for folder in found.split(":")]
    folders = [root / one.lstrip("/") for one in named] or [path for one in _FOLDERS for path in sorted(root.glob(one))]
    there = {file.name for folder in folders for file in folder.glob("*.so")}
    if not there:
        return []
    return [
        f"{key}={plugin} needs {file}, which is not in {' or '.join(f'/{one.relative_to(root)}' for one in folders)}"
        for text in texts
        for key, value in _SETTING.findall(text)
        for plugin in value.split(",")
        if "/" in plugin
        and not plugin.endswith("/none")
        and (file := f"{plugin.lower().replace('/', '_')}.so") not in there
    ]
