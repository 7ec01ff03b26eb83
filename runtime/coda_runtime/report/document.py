"""A whole page: one HTML file that needs nothing beside it."""

from __future__ import annotations

from importlib.resources import files

from .markup import Child, Markup, el


def document(title: str, *sections: Child, footer: Child = "") -> str:
    """Return the text of an HTML file: ``sections`` in ``main``, then ``footer``, with the style sheet inside."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    page = el(
        "html",
        el(
            "head",
            el("meta", charset="utf-8"),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("title", title),
            el("style", Markup(style)),
        ),
        el("body", el("main", *sections), footer),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def tile(name: str, value: str, about: str) -> Markup:
    """Return one figure in a ``dl`` of class "tiles": its name, its value, and a few words."""
    return el("div", el("dt", name), el("dd", value), el("dd", about, class_="about"))


def keys(*named: tuple[str, str]) -> Markup:
    """Return a chart's key: (words, CSS class of the colour) each."""
    return el("p", [el("span", text, class_=f"key {style}") for text, style in named], class_="keys")
