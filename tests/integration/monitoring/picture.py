# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard as an SVG picture: its own panels, in their places, with what a Prometheus answers to their queries.

It is not Grafana, which is in no Debian; it shows what the dashboard's file asks and gets.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .prometheus import Prometheus

_CELL_W, _CELL_H, _GAP = 50, 34, 8
_COLOURS = (
    "#5470c6",
    "#91cc75",
    "#eeae2f",
    "#ee6666",
    "#73c0de",
    "#3ba272",
    "#fc8452",
    "#9a60b4",
    "#ea7ccc",
    "#6e7079",
)
_UNITS = {"percent": "%", "celsius": "°C", "watt": "W", "mbytes": "MiB"}
_LAST_S = 60


def draw(dashboard: Mapping[str, Any], prometheus: Prometheus) -> str:
    """All panels, with the data of the last minute."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * _CELL_H + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{24 * _CELL_W + _GAP}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#f4f5f5"/>',
    ]
    for panel in panels:
        place = panel["gridPos"]
        x, y = place["x"] * _CELL_W + _GAP, place["y"] * _CELL_H + _GAP
        w, h = place["w"] * _CELL_W - _GAP, place["h"] * _CELL_H - _GAP
        if panel["type"] == "row":
            parts.append(_text(x + 2, y + 17, panel["title"], size=14, weight="bold"))
            continue
        parts.append(f'<svg x="{x}" y="{y}" width="{w}" height="{h}">')
        parts.append(f'<rect width="{w}" height="{h}" rx="3" fill="#fff" stroke="#d8d9da"/>')
        draw_panel = {"stat": _stat, "table": _table, "timeseries": _lines}[panel["type"]]
        parts += [*draw_panel(panel, prometheus, w, h), _text(8, 17, panel["title"], weight="bold"), "</svg>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _expression(target: Mapping[str, Any]) -> str:
    return re.sub(r"\$(node|gpu|job)\b", ".*", target["expr"])


def _text(x: float, y: float, text: str, **style: Any) -> str:
    names = {"size": "font-size", "weight": "font-weight", "anchor": "text-anchor", "fill": "fill"}
    attributes = "".join(f' {names[name]}="{value}"' for name, value in style.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{attributes}>{escape(text)}</text>'


def _number(value: float, unit: str = "") -> str:
    if unit == "percentunit":
        return f"{value * 100:.0f} %"
    text = f"{value:,.1f}" if value % 1 else f"{value:,.0f}"
    return f"{text} {_UNITS.get(unit, '')}".strip()


def _stat(panel: Mapping[str, Any], prometheus: Prometheus, w: int, h: int) -> list[str]:
    found = prometheus.query(_expression(panel["targets"][0]))
    value = found[0][1] if found else 0.0
    colour = "#37872d" if value < panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] else "#c4162a"
    return [
        f'<rect width="{w}" height="{h}" rx="3" fill="{colour}" opacity="0.25"/>',
        _text(w / 2, h / 2 + 22, _number(value), size=34, anchor="middle", fill=colour),
    ]


def _table(panel: Mapping[str, Any], prometheus: Prometheus, w: int, h: int) -> list[str]:
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    single = len(panel["targets"]) == 1
    for target in panel["targets"]:
        column = "Value" if single else f"Value #{target['refId']}"
        for labels, value in prometheus.query(_expression(target)):
            key = tuple(sorted(labels.items()))
            fits = [one for one in rows if set(key) <= set(one)] or [key]
            for one in fits:
                rows.setdefault(one, dict(one))[column] = _number(value)
    options = panel["transformations"][1]["options"]
    hidden, names = options["excludeByName"], options["renameByName"]
    columns = [one for one in names if one not in hidden]
    step = w / len(columns)
    parts = [_text(8 + n * step, 36, names[column], fill="#6e7079") for n, column in enumerate(columns)]
    shown = sorted(rows.values(), key=lambda row: [_natural(row.get(column, "")) for column in columns])
    room = (h - 44) // 17
    for number, row in enumerate(shown[:room]):
        y = 54 + number * 17
        if number == room - 1 and len(shown) > room:
            parts.append(_text(8, y, f"… {len(shown) - room + 1} more", fill="#6e7079"))
            break
        parts += [_text(8 + n * step, y, row.get(column, "")) for n, column in enumerate(columns)]
    return parts


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(word) if word.isdecimal() else 0, word) for word in re.findall(r"\d+|\D+", text)]


def _lines(panel: Mapping[str, Any], prometheus: Prometheus, w: int, h: int) -> list[str]:
    end = time.time()
    series: list[tuple[str, Sequence[tuple[float, float]]]] = []
    for target in panel["targets"]:
        answer = prometheus.ask(
            "query_range", query=_expression(target), start=str(end - _LAST_S), end=str(end), step="2"
        )
        for one in answer["result"]:
            legend = target["legendFormat"]
            for name in re.findall(r"\{\{(\w+)\}\}", legend):
                legend = legend.replace(f"{{{{{name}}}}}", one["metric"].get(name, ""))
            series.append((legend, [(float(at), float(value)) for at, value in one["values"]]))
    defaults = panel["fieldConfig"]["defaults"]
    top = defaults.get("max") or max((value for _, points in series for _, value in points), default=1) * 1.15 or 1
    left, right, above, below = 62, w - 8, 28, h - 62
    parts = []
    for part in range(5):
        y = below - (below - above) * part / 4
        parts.append(f'<path d="M{left} {y:.0f}H{right}" stroke="#e5e5e5"/>')
        parts.append(
            _text(left - 6, y + 4, _number(round(top * part / 4, 2), defaults["unit"]), anchor="end", fill="#6e7079")
        )
    for number, (_, points) in enumerate(series):
        path = " ".join(
            f"{left + (right - left) * (1 - (end - at) / _LAST_S):.1f},{below - (below - above) * value / top:.1f}"
            for at, value in points
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[number % 10]}" stroke-width="1.5"/>')
    columns = max(1, w // 190)
    for number, (legend, _) in enumerate(series[: columns * 3]):
        x, y = 12 + number % columns * 190, h - 44 + number // columns * 15
        parts.append(f'<path d="M{x} {y - 4}h12" stroke="{_COLOURS[number % 10]}" stroke-width="3"/>')
        parts.append(_text(x + 17, y, legend))
    if len(series) > columns * 3:
        parts.append(_text(w - 8, h - 4, f"{len(series) - columns * 3} more", anchor="end", fill="#6e7079"))
    return parts
