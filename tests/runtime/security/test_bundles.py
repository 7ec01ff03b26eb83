"""Bundles that somebody made to do harm: each is refused with a clear error, soon, and without much memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import coda_runtime
from coda_runtime import ArtifactError, BundleError, BundleNotFoundError, ChecksumError, Manifest, ManifestError
from coda_runtime.cli.app import cli
from coda_runtime.format import bundle as bundle_module
from coda_runtime.format import graph_check
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import MAX_BYTES
from coda_runtime.parity import SavedReference
from tests.runtime import graphs, measurable, tiny
from tests.runtime.hostile_graphs import HOSTILE

Copy = Callable[[Path], Path]
ENCODER, QUANTIZER, DECODER, CODEBOOK = tiny.FILES

NAMES = [
    "/etc/passwd", "../x", "a/../../x", "..", ".", "a/./b", "a//b", "a/", "C:x", "C:\\x", "\\\\host\\share", "a\\b",
    "a\0b", "a\nb", "a ", " a", "a.", "manifest.json", "SHA256SUMS", "Manifest.JSON", "\ud800", "con", "NUL.onnx",
    "sub/com1.txt", "LPT9", "aux", ".git/config", "a/.ssh/authorized_keys", ".hidden", "a" * 1025, "x?", "x*", "<x>",
]  # fmt: skip


def data_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_names_that_leave_the_folder_or_mean_something_to_a_system(self, minimal: Path, name: str) -> None:
        data = data_of(minimal)
        data["artifacts"][0]["file"] = name
        with pytest.raises(ManifestError, match=r"artifacts\[0\].file is ") as caught:
            Manifest.parse(json.dumps(data))
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("name", ["encoder.onnx", "a/b/c.onnx", "console.onnx", "a.b", "com10", "nul-1", "a..b"])
    def test_plain_names_are_taken(self, minimal: Path, name: str) -> None:
        data = data_of(minimal)
        data["artifacts"][0]["file"] = name
        assert Manifest.parse(json.dumps(data)).artifacts[0].file == name


class TestFiles:
    """What a name leads to. A read of a pipe or of a device might never come back."""

    @pytest.fixture
    def rejected(self, minimal: Path, copy: Copy) -> Callable[[Callable[[Path], Any]], str]:
        folder = copy(minimal)

        def run(put: Callable[[Path], Any]) -> str:
            path = folder / ENCODER
            path.unlink(missing_ok=True)
            put(path)
            with pytest.raises(ChecksumError) as caught:
                coda_runtime.load(folder)
            with pytest.raises(ChecksumError):
                Bundle.open(folder).verify("always")
            return str(caught.value)

        return run

    def test_links_to_elsewhere(self, rejected: Callable[[Any], str], tmp_path: Path) -> None:
        (tmp_path / "outside.onnx").write_bytes(b"x")
        for target in ("/etc/passwd", "../outside.onnx", "/proc/self/environ"):
            assert "is a link that leaves the bundle" in rejected(lambda path, target=target: path.symlink_to(target))

    def test_a_link_that_turns_in_a_circle_or_leads_nowhere(self, rejected: Callable[[Any], str]) -> None:
        for target in (ENCODER, "nowhere"):
            assert "is missing" in rejected(lambda path, target=target: path.symlink_to(target))

    def test_a_folder_that_is_a_link(self, minimal: Path, copy: Copy, tmp_path: Path) -> None:
        folder, outside = copy(minimal), tmp_path / "outside"
        outside.mkdir()
        (folder / ENCODER).rename(outside / ENCODER)
        (folder / "sub").symlink_to(outside)
        tiny.edit_manifest(folder, lambda data: data["artifacts"][0].update(file=f"sub/{ENCODER}"))
        with pytest.raises(ChecksumError, match="is a link that leaves the bundle"):
            coda_runtime.load(folder)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_pipes_and_devices(self, rejected: Callable[[Any], str]) -> None:
        assert "is missing" in rejected(os.mkfifo)
        for device in ("/dev/zero", "/dev/stdin"):
            assert "is missing" in rejected(lambda path, device=device: path.symlink_to(device))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    @pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
    def test_lists_that_are_pipes_or_devices(self, sealed: Path, copy: Copy, name: str) -> None:
        path = copy(sealed) / name
        for put in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
            path.unlink()
            put(path)
            with pytest.raises(BundleError, match=r"cannot be read \(it is not a regular file\)"):
                coda_runtime.load(path.parent)

    @pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
    def test_lists_of_gigabytes(self, sealed: Path, copy: Copy, name: str) -> None:
        path = copy(sealed) / name
        os.truncate(path, 64 << 30)  # a sparse file
        with pytest.raises(BundleError, match=rf"be read \(it has {64 << 30:,} bytes, and at most {MAX_BYTES:,}"):
            coda_runtime.load(path.parent)


class TestNumbers:
    """A manifest's numbers are multiplied and allocated long before a graph could contradict them."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"image_size": 10**9, "downsample": 25 * 10**7},
            {"image_size": 8200, "downsample": 2050},
            {"vocab_size": 10**12},
            {"vocab_size": 2**24 + 1},
            {"latent_channels": 10**12},
            {"latent_channels": 2**28},
            {"scales": [1, 2, 1025], "image_size": 8200, "num_tokens": 5 + 1025**2},
            {"scales": list(range(1, 10**5))},
            {"scales": list(range(1, 1025)), "image_size": 8192, "num_tokens": sum(n * n for n in range(1025))},
            {"num_tokens": 10**30},
            {"image_size": 10**4000},
        ],
    )
    def test_the_spec(self, minimal: Path, changes: dict[str, Any]) -> None:
        data = data_of(minimal)
        data["spec"].update(changes)
        self._rejected(data)

    @pytest.mark.parametrize(
        "changes",
        [
            {"bytes": 2**63},
            {"batch": [10**9, 10**9, 10**9]},
            {"batch": [1, 1, 65_537]},
            {"profiles": [[1, 1, 1], [1, 1, 65_537]]},
            {"profiles": [[size, size, size] for size in range(1, 18)]},
            {"parity": {"x": {"psnr": 10**400}}},
            {"engine": {"targets": -(10**30)}},
        ],
    )
    def test_an_artifact(self, minimal: Path, changes: dict[str, Any]) -> None:
        data = data_of(minimal)
        data["artifacts"][0].update(changes)
        self._rejected(data)

    def test_what_a_real_tokenizer_might_have_is_taken(self, minimal: Path) -> None:
        data = data_of(minimal)
        scales = [1, 2, 4, 8, 16, 32, 64, 128]
        data["spec"] |= {
            "image_size": 2048, "downsample": 16, "latent_channels": 256, "vocab_size": 2**20, "scales": scales,
            "num_tokens": sum(side * side for side in scales),
        }  # fmt: skip
        assert Manifest.parse(json.dumps(data)).spec.latent_size == 128

    def _rejected(self, data: dict[str, Any]) -> None:
        with pytest.raises(ManifestError) as caught:
            Manifest.parse(json.dumps(data))
        assert len(str(caught.value)) < 500


class TestText:
    @pytest.mark.parametrize(
        "text",
        [
            "[" * 100_000,
            '{"a":' * 200_000,
            '{"format_version": 1e999}',
            '{"format_version": 1, "x": -1e400}',
            '{"format_version": ' + "9" * 5000 + "}",
            '{"format_version": Infinity}',
            '{"format_version": 1, "artifacts": [' + "0," * 5000 + "0]}",
            '{"format_version": 1, "x": ' + "[" * 65 + "]" * 65 + "}",
            " " * (MAX_BYTES + 1),
        ],
        ids=range(9),
    )
    def test_json_that_is_deep_or_long_or_infinite(self, text: str) -> None:
        with pytest.raises(ManifestError) as caught:
            Manifest.parse(text)
        assert len(str(caught.value)) < 500

    def test_many_keys_of_which_the_last_stands_twice(self) -> None:
        """Counting each key in a list of all would take minutes."""
        keys = ",".join(f'"{number}":0' for number in range(10**5))
        with pytest.raises(ManifestError, match="the key '99999' appears twice"):
            Manifest.parse(f'{{{keys},"99999":0}}')


class TestGraphs:
    @pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", DECODER])
    def test_weights_in_other_files(self, sealed: Path, copy: Copy, location: str) -> None:
        folder = copy(sealed)
        graphs.make_external(folder / ENCODER, location)
        graphs.vouch(folder)
        with pytest.raises(ArtifactError, match="keeps weights in another file"):
            coda_runtime.load(folder)
        assert [name for name, problem in Bundle.open(folder).check() if problem] == [ENCODER]

    def test_a_graph_that_is_something_else(self, sealed: Path, copy: Copy) -> None:
        folder = copy(sealed)
        (folder / ENCODER).write_bytes(b"\x7fELF" + bytes(200))
        graphs.vouch(folder)
        with pytest.raises(ArtifactError, match="is not an ONNX model"):
            coda_runtime.load(folder)

    @pytest.mark.parametrize("name", HOSTILE)
    def test_what_would_kill_or_hang_this_process(self, sealed: Path, copy: Copy, name: str) -> None:
        """None of them gets to the engine library, and `coda verify` says which node it is."""
        make, words = HOSTILE[name]
        folder = copy(sealed)
        (folder / QUANTIZER).write_bytes(make().SerializeToString())
        graphs.vouch(folder)
        with pytest.raises(ArtifactError, match=words):
            coda_runtime.load(folder)
        done = CliRunner().invoke(cli, ["verify", str(folder)])
        assert done.exit_code == 1
        assert f"BROKEN  {QUANTIZER}" in done.stdout
        assert re.search(words, done.stderr), done.stderr
        assert done.stderr.count("\n") == 1

    def test_a_graph_is_looked_at_once_in_a_load(
        self, sealed: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes milliseconds of each. One that is not loaded may be what it is: it is never run."""
        looked_at: list[str] = []
        real = bundle_module.check_graph_once

        def look(path: Path, *data: Any) -> None:
            looked_at.append(path.name)
            real(path, *data)

        folder = copy(sealed)
        manifest = Bundle.open(folder).manifest
        (folder / "encoder.fp16.onnx").write_bytes(HOSTILE["Loop without an end"][0]().SerializeToString())
        (folder / "decoder.fp16.onnx").write_bytes((folder / DECODER).read_bytes())
        low = [tiny.describe(folder, f"{part}.fp16.onnx") for part in ("encoder", "decoder")]
        more = (*manifest.artifacts, *low)
        (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, artifacts=more).dump())
        graphs.vouch(folder)
        monkeypatch.setattr(bundle_module, "check_graph_once", look)
        coda_runtime.load(folder).close()
        assert looked_at == [ENCODER, QUANTIZER, DECODER]
        with pytest.raises(ArtifactError, match="for_ever"):
            coda_runtime.load(folder, precision="fp16")
        with pytest.raises(ArtifactError, match="for_ever"):
            Bundle.open(folder).verify()


class TestGraphsThatPassed:
    """A graph that passed is not looked at in the next load, for as long as its bytes and the rules are the same."""

    @pytest.fixture
    def looked_at(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        seen: list[str] = []
        real = graph_check._refused

        def look(data: Any) -> str | None:
            seen.append(hashlib.sha256(data).hexdigest())
            return real(data)

        monkeypatch.setattr(graph_check, "_refused", look)
        yield seen
        graph_check._rules.cache_clear()

    def test_by_their_bytes(self, sealed: Path, copy: Copy, looked_at: list[str]) -> None:
        folder = copy(sealed)
        for one in (sealed, folder):  # the same bytes, wherever they lie
            coda_runtime.load(one).close()
            assert len(looked_at) == 3
        loop = HOSTILE["Loop without an end"][0]().SerializeToString()
        (folder / QUANTIZER).write_bytes(loop)
        graphs.vouch(folder)
        for _ in range(2):  # what was refused is not remembered either
            with pytest.raises(ArtifactError, match="for_ever"):
                coda_runtime.load(folder)
        assert looked_at[3:] == [hashlib.sha256(loop).hexdigest()] * 2

    def test_not_by_other_rules(self, sealed: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        coda_runtime.load(sealed).close()
        monkeypatch.setattr(graph_check, "_JUDGES", graph_check._JUDGES[1:])
        graph_check._rules.cache_clear()
        coda_runtime.load(sealed).close()
        assert len(looked_at) == 6

    def test_not_where_the_rules_files_cannot_be_told(
        self, sealed: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(graph_check, "_JUDGES", ("of_an_archive",))
        graph_check._rules.cache_clear()
        for loads in (1, 2):
            coda_runtime.load(sealed).close()
            assert len(looked_at) == 3 * loads

    @pytest.mark.parametrize(
        "load",
        [
            lambda folder: coda_runtime.load(folder, verify="always").close(),
            lambda folder: Bundle.open(folder).verify(),
        ],
        ids=["always", "verify"],
    )
    def test_who_asks_for_all_gets_all(
        self, sealed: Path, looked_at: list[str], load: Callable[[Path], object]
    ) -> None:
        coda_runtime.load(sealed).close()
        before = len(looked_at)
        load(sealed)
        assert len(looked_at) == before + 3


class TestTables:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return measurable.make(tmp_path / "bundle")

    def test_a_pickle_in_the_value_table(self, folder: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "run",)

        np.save(folder / CODEBOOK, np.array([Evil()], object), allow_pickle=True)
        graphs.vouch(folder)
        with pytest.raises(ArtifactError, match="expected plain numbers"):
            coda_runtime.load(folder)
        assert not (tmp_path / "run").exists()

    def test_a_table_that_says_it_is_large(self, folder: Path) -> None:
        whole = (folder / CODEBOOK).read_bytes()
        said = whole.replace(b"(16, 4), }" + b" " * 12, b"(1600000000000, 4), } ")
        assert len(said) == len(whole)
        (folder / CODEBOOK).write_bytes(said)
        graphs.vouch(folder)
        with pytest.raises(ArtifactError, match=r"its header says float32 \[1600000000000, 4\]"):
            coda_runtime.load(folder)

    @pytest.mark.parametrize("name", ["search.fp32.npz", "parity.fp32.npz"])
    def test_archives_that_unpack_to_much_more(self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("coda_runtime.io.unpacking._FREE", 1 << 20)
        np.savez_compressed(folder / name, table=np.zeros(1 << 23, np.uint8))
        graphs.vouch(folder)
        bundle = Bundle.open(folder)
        bundle.verify()
        with pytest.raises(ArtifactError, match="it unpacks to"):
            SavedReference.open(bundle)


def test_a_device_is_no_bundle() -> None:
    with pytest.raises(BundleNotFoundError, match="is a file; expected the bundle folder"):
        coda_runtime.load("/dev/null")
