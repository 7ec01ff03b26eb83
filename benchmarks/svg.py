"""A chart of the report as a file of its own, for the docs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from coda_runtime.report.markup import Markup

STYLE = """
.chart { background: #ffffff; font-family: system-ui, sans-serif; }
.chart text { fill: #5c606b; font-size: 13px; }
.chart .axis { fill: #22242a; }
.chart .grid { stroke: #e4e1da; }
.chart .tick { stroke: #5c606b; }
.chart polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.chart rect.series { fill: #2f6f8f; }
"""


def standalone(chart: Markup, *, colours: Mapping[str, str] | None = None, below: str = "", more: int = 0) -> Markup:
    """Return the chart with its style and lines of these classes in these colours; `below` takes `more` of height."""
    lines = "".join(f".chart .{name} {{ stroke: {colour}; }}\n" for name, colour in (colours or {}).items())

    def higher(found: re.Match[str]) -> str:
        return f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {found[1]} {int(found[2]) + more}"'

    svg = re.sub(r'viewBox="0 0 (\d+) (\d+)"', higher, chart, count=1)
    return Markup(svg.replace("</svg>", f"{below}<style>{STYLE}{lines}</style></svg>"))
