"""What a manifest of runtime/js may say: read from a folder as `load` does, up to the engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from coda_runtime.format.manifest import MANIFEST_NAME
from tests.runtime import tiny
from tests.runtime.js.bridge import PACKAGE, tool

SCRIPT = """
const { load } = await import(process.argv[1]);
const found = [];
for (const source of process.argv.slice(2)) {
  found.push(await load(source, { ort: {} }).catch((error) => `${error.name}: ${error.message}`));
}
console.log(JSON.stringify(found));
"""


def loaded(*sources: object) -> Any:
    command = [tool("node", "nodejs"), "--input-type=module", "-e", SCRIPT, (PACKAGE / "src" / "node.js").as_uri()]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_artifacts_that_are_no_list(tmp_path: Path) -> None:
    manifest = json.loads((tiny.make_bundle(tmp_path / "bundle") / MANIFEST_NAME).read_bytes())
    folders = []
    for name, value in (("number", 5), ("object", {}), ("word", "x"), ("null", None)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / MANIFEST_NAME).write_text(json.dumps({**manifest, "artifacts": value, "checksums": None}))
        folders.append(folder)
    for found in loaded(*folders):
        assert found.startswith("BundleError: manifest.json: artifacts is ")
        assert "expected a list; copy, download or export the bundle again" in found


def test_addresses_that_are_none() -> None:
    found = loaded("http://", "file:///a%2Fb", "HTTP://127.0.0.1:1/bundle?revision=2")
    assert found[0].startswith("BundleError: http:// has no manifest.json that can be read (Invalid URL)")
    assert found[1].startswith("BundleError: file:///a%2Fb is the address of no folder here")
    assert "(fetch failed)" in found[2]
