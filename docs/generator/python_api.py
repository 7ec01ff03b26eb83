"""The pages of the Python API: which names each has. What is said of them, mkdocstrings reads from their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FOLDERS = {"coda_runtime": "runtime", "coda_export": "export", "coda_deploy": ""}

# What a reader looks for first; the others follow in the order of `__all__`.
_FIRST = ("load", "Tokenizer", "LoadOptions", "CodaTokenizer", "export_bundle")
# Found by the search after the pages that explain.
_HEAD = "---\nsearch:\n  boost: 0.5\n---\n\n"

# page: its title, what it is for, and its modules, whose public names are those of `__all__`, or of this table.
PAGES: dict[str, tuple[str, str, dict[str, tuple[str, ...]]]] = {
    "coda_runtime": (
        "coda_runtime",
        "What an application imports: a bundle is loaded, and turns images into ids and ids into images.",
        {
            "coda_runtime": (),
            "coda_runtime.images": (),
            "coda_runtime.parity": (),
            "coda_runtime.bulk": (),
            "coda_runtime.hub.push": ("push", "Pushed"),
            "coda_runtime.hub.pull": ("pull", "Pulled"),
            "coda_runtime.triton": (),
            "coda_runtime.build.bundle": ("EngineRequest", "add_engines"),
            "coda_runtime.build.options": ("BuildOptions",),
        },
    ),
    "coda_deploy": (
        "coda_deploy",
        "Training, evaluation and export, with PyTorch.",
        {
            "coda_deploy": (),
            "coda_deploy.export": ("export_tokenizer",),
            "coda_deploy.data": (),
            "coda_deploy.evaluate": (),
            "coda_deploy.tokens": (),
        },
    ),
    "coda_export": (
        "coda_export",
        "What writes a bundle: a folded tokenizer becomes graphs, which are measured and sealed.",
        {"coda_export": ()},
    ),
}


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    return {name: _page(*content) for name, content in PAGES.items()}


def public_names(module: str) -> list[str]:
    """Return `__all__` of a module, read from its source: what needs PyTorch is not imported."""
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if name != "__version__"]
    raise LookupError(f"{module} has no __all__: give its public names in PAGES")


def _file(module: str) -> Path:
    path = ROOT / _FOLDERS[module.partition(".")[0]] / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _page(title: str, what: str, modules: dict[str, tuple[str, ...]]) -> str:
    lines = [f"{_HEAD}# {title}", "", what, ""]
    shown: set[str] = set()
    for module, listed in modules.items():
        # A name that two modules have is shown once, where a reader looks first.
        names = [name for name in listed or public_names(module) if name not in shown]
        names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
        shown |= set(names)
        errors = [name for name in names if name.endswith("Error")]
        for heading, group in ((module, [name for name in names if name not in errors]), ("Errors", errors)):
            if group:
                of = heading if heading == module else f"{heading} of {module}"
                lines += [f"## {of}", "", *[f"::: {module}.{name}\n" for name in group]]
    return "\n".join(lines)
