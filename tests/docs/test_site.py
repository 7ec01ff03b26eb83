"""What `make docs` gives the builder, and what it looks for in what comes of it; the builder itself runs there."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import coda_runtime
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.vae.config import VaeTrainConfig
from coda_runtime.cli import app
from docs.generator import check, commands, python_api, schema_page, settings
from docs.generator.markdown import fenced, relinked
from docs.generator.stage import NAMED, LinkError, Stage
from tests.docs.pages import ROOT, python

PAGES = sorted((ROOT / "docs").glob("*.md"))


class _Loader(yaml.SafeLoader):
    """The configuration names a function of the builder's, which is not installed here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def navigation() -> list[str]:
    loaded = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)
    return [page for section in loaded["nav"] for entry in next(iter(section.values())) for page in entry.values()]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages")
    Stage(out).run()
    return out


def test_every_page_has_its_place_in_the_navigation() -> None:
    made = [f"reference/{name}.md" for name in (*python_api.PAGES, "commands", "manifest", "messages", "training")]
    assert sorted(navigation()) == sorted([*(page.name for page in PAGES), *set(NAMED.values()) - {"index.md"}, *made])


def test_links_of_the_pages_lead_to_pages(staged: Path) -> None:
    pages = sorted(staged.rglob("*.md"))
    assert len(pages) > len(PAGES) + 50  # and what they link to
    links = 0
    for page in pages:
        if page.parent == staged or page.name == "MODEL_CARD.md.md":

            def leads(target: str, page: Path = page) -> str:
                nonlocal links
                if not target.startswith(("http:", "https:", "#")):
                    links += 1
                    assert (page.parent / target.partition("#")[0]).is_file(), f"{page.name}: {target}"
                return target

            relinked(page.read_text(encoding="utf-8"), leads)
    assert links > 250


def test_files_of_the_project_are_shown(staged: Path) -> None:
    text = (staged / "architecture.md").read_text(encoding="utf-8")
    assert "](source/runtime/coda_runtime/loading.py.md)" in text
    assert "](contributing.md#recipes)" in text
    shown = (staged / "source/runtime/coda_runtime/loading.py.md").read_text(encoding="utf-8")
    source = (ROOT / "runtime/coda_runtime/loading.py").read_text(encoding="utf-8")
    assert f"```python\n{source}```\n" in shown
    assert "exclude: true" in shown  # the search finds what pages say
    folder = (staged / "source/coda_deploy/cli/index.md").read_text(encoding="utf-8")
    assert "| [`train.py`](train.py.md) | ``coda train``: images and a continuous VAE" in folder


@pytest.mark.parametrize("target", ["nothing.md", "../nothing.py", "../../outside.md"])
def test_a_link_that_leads_nowhere_ends_it(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("# Outside\n", encoding="utf-8")
    for name in NAMED:
        (root / name).write_text("# Page\n", encoding="utf-8")
    page = root / "docs" / "page.md"
    page.write_text("# Page\n\n[code](../CHANGELOG.md), `[no](link.md)`\n", encoding="utf-8")
    Stage(tmp_path / "good", root).run()
    page.write_text(f"# Page\n\n[x]({target})\n", encoding="utf-8")
    with pytest.raises(LinkError, match=re.escape(f"docs/page.md links to {target}, which is not there")):
        Stage(tmp_path / "bad", root).run()


def test_links_in_code_are_left_alone() -> None:
    text = "[a](a.md) `[b](b.md)`\n[c](c.md#d)\n\n    [e](e.md)\n\n```\n[f](f.md)\n```\n![g](g.png)\n"
    changed = relinked(text, lambda target: f"new/{target}")
    assert re.findall(r"\]\((.*?)\)", changed) == [
        "new/a.md",
        "b.md",
        "new/c.md#d",
        "e.md",
        "f.md",
        "new/g.png",
    ]


def test_indented_code_is_fenced() -> None:
    text = (
        "A:\n\n    coda x\n\n    coda y\n\nB:\n\n    a  b\n      c\n\n- item\n\n    more of it\n\n```\n    kept\n```\n"
    )
    assert fenced(text) == (
        "A:\n\n```sh\ncoda x\n\ncoda y\n```\n\nB:\n\n```text\na  b\n  c\n```\n\n"
        "- item\n\n    more of it\n\n```\n    kept\n```\n"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_change_no_word(page: Path) -> None:
    def words(text: str) -> list[str]:
        return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("```")]

    text = page.read_text(encoding="utf-8")
    assert words(fenced(text)) == words(text)


def test_the_python_api_has_every_public_name() -> None:
    assert set(python_api.public_names("coda_runtime")) == set(coda_runtime.__all__) - {"__version__"}
    for name, text in python_api.pages().items():
        shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
        assert len(shown) == len(set(shown)) > 5, name
        for module in python_api.PAGES[name][2]:
            names = python_api.PAGES[name][2][module] or python_api.public_names(module)
            assert {found.rpartition(".")[2] for found in shown} >= set(names), module
    with pytest.raises(LookupError, match=r"coda_runtime\.hub\.pull has no __all__"):
        python_api.public_names("coda_runtime.hub.pull")


def test_the_python_api_has_what_pages_import() -> None:
    shown = set(re.findall(r"^::: (\S+)$", "\n".join(python_api.pages().values()), re.MULTILINE))
    names = {name.rpartition(".")[2] for name in shown}
    used = set()
    for page in PAGES:
        for node in ast.walk(ast.parse("\n".join(block.text for block in python(page)))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coda_"):
                used |= {alias.name for alias in node.names}
    assert len(used) > 8
    assert used - names == set()


def _all_commands(group: click.Group, name: str) -> list[tuple[str, click.Command]]:
    context = click.Context(group, info_name=name)
    found = []
    for inner in group.list_commands(context):
        command = group.get_command(context, inner)
        assert command is not None
        found.append((f"{name} {inner}", command))
        found += _all_commands(command, f"{name} {inner}") if isinstance(command, click.Group) else []
    return found


def test_every_command_has_its_options_on_the_page() -> None:
    sections = dict(re.findall(r"^##+ (coda [\w -]+)\n(.*?)(?=^##|\Z)", commands.page(), re.DOTALL | re.MULTILINE))
    found = _all_commands(app.cli, "coda")
    assert [name for name, _ in found] == list(sections)
    for name, command in found:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert max(parameter.opts, key=len) in sections[name], f"{name} {parameter.opts}"


def test_text_of_commands_means_itself_in_a_table() -> None:
    assert commands.escaped("a|b *c* <d> [e] `f|<g>_`") == r"a\|b \*c\* &lt;d&gt; \[e\] `f|<g>_`"


def test_every_setting_is_on_the_page() -> None:
    page = settings.page()
    for kind in (TrainConfig, VaeTrainConfig):
        for section in dataclasses.fields(kind):
            assert f"### [{section.name}] of " in page
            for key in dataclasses.fields(getattr(kind(), section.name)):
                assert f"| `{key.name}` |" in page
    assert ":class:" not in page


def test_every_key_of_the_manifest_is_on_the_page() -> None:
    page = schema_page.page()
    keys = ast.literal_eval(str(_keys(yaml.safe_load(schema_page.SCHEMA.read_text(encoding="utf-8")))))
    assert len(keys) > 40
    assert [key for key in keys if f"| `{key}` |" not in page] == []


def _keys(schema: Any) -> list[str]:
    if not isinstance(schema, dict):
        return []
    inner = [key for name, value in schema.items() if name in ("properties", "$defs") for key in _inner(value)]
    return [*schema.get("properties", {}), *inner]


def _inner(schemas: dict[str, Any]) -> list[str]:
    return [key for schema in schemas.values() for key in _keys(schema)]


GOOD = '<html><head><link rel="stylesheet" href="a.css"></head><body><h1 id="top">A</h1>{}</body></html>'


@pytest.mark.parametrize(
    ("html", "wrong"),
    [
        ('<a href="b.html#there">b</a><a href="#top">top</a><a href="https://elsewhere.org/x">away</a>', None),
        ('<a href="c.html">c</a>', "c.html: no such file"),
        ('<a href="b.html#nowhere">b</a>', "b.html#nowhere: no such anchor"),
        ('<a href="#nowhere">b</a>', "#nowhere: no such anchor"),
        ('<a href="../outside.html">b</a>', "../outside.html: it is outside the site"),
        ('<img src="picture.png">', "picture.png: no such file"),
        (
            '<script src="https://cdn.example.org/x.js"></script>',
            "https://cdn.example.org/x.js: it is loaded from elsewhere",
        ),
        ('<img src="//cdn.example.org/x.png">', "//cdn.example.org/x.png: it is loaded from elsewhere"),
    ],
)
def test_the_built_site_is_read_as_a_browser_does(tmp_path: Path, html: str, wrong: str | None) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").write_text(GOOD.format(""), encoding="utf-8")
    (site / "a.css").write_text("", encoding="utf-8")
    (site / "a.html").write_text(GOOD.format(html), encoding="utf-8")
    (site / "b.html").write_text(GOOD.format('<p id="there">b</p>'), encoding="utf-8")
    assert check.problems(site) == ([] if wrong is None else [f"a.html: {wrong}"])
