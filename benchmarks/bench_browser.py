"""The page of `coda site` in Chromium: what it loads, when the first token is there, what an image takes, and leaks.

    python -m benchmarks.bench_browser bundle/ --precision int8 --modules runtime/js/node_modules --json browser.json

MODULES is a node_modules folder with onnxruntime-web and playwright-core (`npm ci --ignore-scripts` in runtime/js);
node and chromium have to be installed. The engine is carried, so that no network is timed. "cold" is a browser that has
nothing, "warm" the same page loaded again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from coda_deploy import photographs
from coda_runtime.format.bundle import Bundle
from coda_runtime.site import write_site

DRIVER = Path(__file__).with_name("browser.mjs")


def measure(bundle: Path, precision: str, modules: Path, pictures: int) -> dict[str, Any]:
    """Serve the page of `bundle` and return what `browser.mjs` measured of it, in bytes and milliseconds."""
    programs = {name: shutil.which(name) for name in ("node", "chromium")}
    if missing := [name for name, path in programs.items() if path is None]:
        sys.exit(f"{' and '.join(missing)} not found; install them (Debian: nodejs, chromium)")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page"
        site = write_site(Bundle.open(bundle), page, precisions=[precision], vendor=modules)
        command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(page), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stderr is not None
            said = server.stdout.readline()
            threading.Thread(target=server.stderr.read, daemon=True).start()
            address = said[said.index("http://") : said.index("/)")] + "/"
            words = [str(programs["node"]), str(DRIVER), str(programs["chromium"]), address, str(pictures)]
            words += map(str, photographs.paths())
            try:
                done = subprocess.run(words, cwd=modules.parent, stdout=subprocess.PIPE, text=True, check=True)
            finally:
                server.terminate()
    found: dict[str, Any] = json.loads(done.stdout)
    return {"precision": precision, "download_bytes": site.download, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--modules", type=Path, default=Path("runtime/js/node_modules"))
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.bundle, given.precision, given.modules, given.pictures)
    text = json.dumps(found, indent=2)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
