"""`make docs`: the site in site/, from pages, docstrings, commands and tables. Anything that leads nowhere ends it.

The pages are written into build/docs first, where links to files of the checkout lead to pages that show them, so that
the site's builder sees plain Markdown alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from docs.generator import check, commands, messages, python_api, schema_page, settings
from docs.generator.stage import ROOT, LinkError, Stage

PAGES, SITE = ROOT / "build" / "docs", ROOT / "site"


def stage(out: Path) -> None:
    """Write all that the builder reads into a folder, which is emptied first. Raises LinkError."""
    shutil.rmtree(out, ignore_errors=True)
    Stage(out).run()
    reference = out / "reference"
    reference.mkdir()
    generated = {
        "commands": commands.page(),
        "manifest": schema_page.page(),
        "messages": messages.page(),
        "training": settings.page(),
    }
    for name, text in {**python_api.pages(), **generated}.items():
        (reference / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "manifest.schema.json", reference)
    for name in ("site.css", "iframe-worker.js"):
        shutil.copy(Path(__file__).with_name(name), out)


def main() -> int:
    """Build and check the site; return the exit code."""
    try:
        stage(PAGES)
    except LinkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    builder = [sys.executable, "-m", "mkdocs", "build", "--clean", "--strict"]
    # CONTRIBUTING.md tells what this notice would.
    done = subprocess.run(builder, cwd=ROOT, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    if done.returncode:
        return done.returncode
    found = check.problems(SITE)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        print(f"{SITE.relative_to(ROOT)}/index.html, {sum(1 for _ in SITE.rglob('*.html'))} pages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
