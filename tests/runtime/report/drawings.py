"""What must hold of every drawing."""

from __future__ import annotations

from xml.etree.ElementTree import Element


def check_on_the_drawing(drawing: Element) -> None:
    """Every coordinate is a finite number inside the view box."""
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    across, down = dict.fromkeys(("x", "cx", "x1", "x2"), width), dict.fromkeys(("y", "cy", "y1", "y2"), height)
    for element in drawing.iter():
        for key, limit in {**across, **down}.items():
            if key in element.attrib:
                assert -1 <= float(element.attrib[key]) <= limit + 1
        for pair in element.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert -1 <= x <= width + 1
            assert -1 <= y <= height + 1
        if element.tag == "rect":
            assert float(element.attrib["height"]) >= 0
