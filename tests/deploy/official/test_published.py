"""What is published on the Hub, by its name: fetched, of one commit, remembered; what is said where it cannot be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from coda_deploy import CodaError, CodaTokenizer, ConfigError, WeightsError
from coda_deploy.evaluate import open_target
from coda_deploy.export import export_tokenizer, verify_parity
from coda_deploy.official import PUBLISHED, import_official
from coda_deploy.official import checkpoint as published_checkpoint
from coda_deploy.official.keys import QUANTIZER_FILE, VAE_FILE
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.errors import HubError, InputError
from tests.deploy.official.narrow import checkpoint, narrow_variants, write
from tests.hub_server import Hub
from tests.tiny_tokenizers import images

FLUX, MAR = "flux_v65536", "mar_v16384"
Publish = Callable[..., str]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in narrow_variants().items():
        monkeypatch.setitem(VARIANTS, name, config)


@pytest.fixture
def publish(hub: Hub, tmp_path: Path) -> Publish:
    """Make a checkpoint the whole of a branch, in `under`; return the commit."""

    def make(
        variant: str = FLUX, seed: int = 0, *, repo: str = PUBLISHED, branch: str = "main", under: str = ""
    ) -> str:
        folder = write(tmp_path / f"{variant}-{seed}", checkpoint(variant, seed)[1])
        files = {f"{under or variant}/{file.name}".removeprefix("./"): file.read_bytes() for file in folder.iterdir()}
        return hub.commit(repo, branch, {**files, "README.md": b"a card", "other.bin": b"x" * 99})

    return make


def same(one: CodaTokenizer, other: CodaTokenizer) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[key]) for key, tensor in one.state_dict().items())


def asked_for(hub: Hub) -> list[str]:
    """The files whose content was asked for."""
    return [path.split("/", 5)[5] for method, path in hub.asked if method == "GET" and "/resolve/" in path]


@pytest.mark.parametrize("variant", [FLUX, MAR])
def test_a_name_loads_it_and_says_where_it_came_from(hub: Hub, publish: Publish, variant: str) -> None:
    commit = publish(variant)
    read = CodaTokenizer.from_pretrained(f"official:{variant}")
    assert same(read, checkpoint(variant)[0])
    digests = {
        name: hashlib.sha256(data).hexdigest() for name, data in hub.head(PUBLISHED).items() if name.endswith(".pth")
    }
    assert set(digests) == {f"{variant}/{VAE_FILE}", f"{variant}/{QUANTIZER_FILE}"}
    assert read.checkpoint == {"hub": PUBLISHED, "revision": "main", "commit": commit, "files": digests}
    assert sorted(asked_for(hub)) == sorted(digests), "two files, once, and nothing else"


def test_what_changed_on_the_hub_is_a_new_commit(hub: Hub, publish: Publish) -> None:
    first = publish(seed=1)
    old = CodaTokenizer.from_pretrained(f"official:{FLUX}")
    second = publish(seed=2)
    new = CodaTokenizer.from_pretrained(f"official:{FLUX}")
    assert old.checkpoint is not None
    assert new.checkpoint is not None
    assert (old.checkpoint["commit"], new.checkpoint["commit"]) == (first, second)
    assert not same(old, new)
    hub.refs[PUBLISHED]["v1"] = first
    for revision in (first, "v1"):
        pinned = CodaTokenizer.from_pretrained(f"official:{FLUX}@{revision}")
        assert same(pinned, old)
        assert pinned.checkpoint == {**old.checkpoint, "revision": revision}
    hub.asked.clear()
    CodaTokenizer.from_pretrained(f"official:{FLUX}@{first}")
    assert hub.asked == [], "a commit that is here is not asked for"


@pytest.mark.parametrize("under", [FLUX, "."])
def test_another_repository(hub: Hub, publish: Publish, under: str) -> None:
    commit = publish(repo="someone/CODA", branch="v1", under=under)
    for name, revision in (("someone/CODA@v1", None), ("someone/CODA", "v1"), (f"someone/CODA@{commit}", None)):
        read = import_official(name, FLUX, revision=revision)
        assert same(read, checkpoint(FLUX)[0])
        assert read.checkpoint is not None
        assert (read.checkpoint["hub"], read.checkpoint["commit"]) == ("someone/CODA", commit)
        prefix = "" if under == "." else f"{FLUX}/"
        assert set(read.checkpoint["files"]) == {prefix + VAE_FILE, prefix + QUANTIZER_FILE}


def test_a_folder_that_exists_comes_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own files, or those of the subfolder; their hashes are kept, and nothing of where it lay."""
    monkeypatch.chdir(tmp_path)
    tokenizer, files = checkpoint(FLUX)
    inner = write(tmp_path / PUBLISHED / FLUX, files)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in inner.iterdir()}
    for name, prefix in ((PUBLISHED, f"{FLUX}/"), (inner, "")):
        read = import_official(name, FLUX)
        assert same(read, tokenizer)
        assert read.checkpoint == {"files": {prefix + name: digest for name, digest in digests.items()}}
    Path(f"official:{FLUX}").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        CodaTokenizer.from_pretrained(f"official:{FLUX}")
    assert hub.asked == []
    with pytest.raises(InputError, match="a folder has no revisions: leave it out"):
        import_official(inner, FLUX, revision="v1")
    with pytest.raises(HubError, match="there is no model 'shuidi0020/CODA'"):
        import_official(None, FLUX)


def test_a_bundle_says_it_too(hub: Hub, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = publish()
    name = f"official:{FLUX}"
    import_official(None, FLUX).save_pretrained(tmp_path / "tokenizer")
    told = json.loads((tmp_path / "tokenizer" / "provenance.json").read_text())["checkpoint"]
    assert told["commit"] == commit
    manifest = export_tokenizer(name, tmp_path / "bundle")
    written = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["provenance"]
    assert written["checkpoint"] == told
    assert (
        written["source"]["sha256"]
        == hashlib.sha256((tmp_path / "tokenizer" / storage.WEIGHTS_NAME).read_bytes()).hexdigest()
    ), "the same weights by both ways"
    for same_tokenizer in (f"{name}@{commit}", tmp_path / "tokenizer"):
        measured = verify_parity(tmp_path / "bundle", same_tokenizer)
        assert len(measured) == sum(artifact.format == "onnx" for artifact in manifest.artifacts)
    publish(seed=5)
    with pytest.raises(InputError, match="was made of a tokenizer with weights"):
        verify_parity(tmp_path / "bundle", name)
    for part in ("encoder", "decoder"):  # the same ones, which take long to make
        graph = onnx.load(tmp_path / "bundle" / f"{part}.fp32.onnx")
        monkeypatch.setattr(f"coda_export.bundle.{part}_graph", lambda *_, graph=graph: graph)
    exported = export_tokenizer(tmp_path / "tokenizer", tmp_path / "again")
    assert exported.provenance["checkpoint"] == told


def test_it_can_be_evaluated(hub: Hub, publish: Publish) -> None:
    publish()
    name = f"official:{FLUX}"
    with open_target(name, device="cpu") as subject:
        pictures = images(2, subject.spec.image_size)
        assert (subject.about.kind, subject.about.path) == ("tokenizer", name)
        assert (subject.encode(pictures.numpy()) == checkpoint(FLUX)[0].encode(pictures).numpy()).all()


def test_a_cut_answer_goes_on_where_it_ended(hub: Hub, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 64)
    publish()
    hub.cut = {f"{FLUX}/{VAE_FILE}"}
    assert same(CodaTokenizer.from_pretrained(f"official:{FLUX}"), checkpoint(FLUX)[0])
    assert hub.ranges == [f"{FLUX}/{VAE_FILE}"]


def test_without_the_hub_the_cache_is_taken(
    hub: Hub, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, name = publish(), f"official:{FLUX}"
    online = CodaTokenizer.from_pretrained(name)
    hub.failing = 503
    with pytest.warns(
        RuntimeWarning, match=f"the Hub does not answer, and {PUBLISHED} is taken from .*commit {commit}"
    ):
        assert same(CodaTokenizer.from_pretrained(name), online)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = CodaTokenizer.from_pretrained(name)
    assert same(offline, online)
    assert offline.checkpoint == online.checkpoint
    with pytest.raises(HubError, match=r"is not in the Hub's cache, or not all of it, and HF_HUB_OFFLINE is set"):
        CodaTokenizer.from_pretrained(f"official:{MAR}")
    (blob,) = {path.resolve() for path in (tmp_path / "hf").rglob(VAE_FILE)}
    damaged = bytearray(blob.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(HubError, match=r"is not in the Hub's cache"):
        CodaTokenizer.from_pretrained(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(HubError, match="try again later"):
        CodaTokenizer.from_pretrained(name)
    hub.failing = None
    assert same(CodaTokenizer.from_pretrained(f"{name}@{commit}"), online), "and what was damaged is fetched again"


def test_a_hub_that_was_never_reached(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        HubError, match=r"did not answer for shuidi0020/CODA .*check the network and HF_ENDPOINT, or copy"
    ):
        CodaTokenizer.from_pretrained(f"official:{FLUX}")


def _unpublished(hub: Hub) -> None:
    del hub.refs[PUBLISHED]


def _without(file: str) -> Callable[[Hub], None]:
    return lambda hub: hub.head(PUBLISHED).pop(file) and None


@pytest.mark.parametrize(
    ("change", "name", "kind", "message"),
    [
        (_unpublished, FLUX, HubError, "no model 'shuidi0020/CODA' .*or it is private; check the name, or log in"),
        (lambda hub: hub.gated.add(PUBLISHED), FLUX, HubError, "is gated: accept its terms on http.*log in"),
        (lambda hub: None, f"{FLUX}@v9", HubError, "has no revision 'v9'"),
        (lambda hub: None, f"{FLUX}@../x", InputError, r"revision is '\.\./x'; expected a branch, a tag or a commit"),
        (lambda hub: None, f"{FLUX}@", InputError, "revision is ''"),
        (lambda hub: None, "sd", ConfigError, "unknown variant 'sd', expected one of mar_v16384, flux_v65536"),
        (lambda hub: None, "", ConfigError, "unknown variant ''"),
        (
            lambda hub: None,
            MAR,
            HubError,
            rf"lacks {MAR}/vae_ema.pth and {MAR}/quantizer_ema.pth: looked for {MAR}/vae_ema.pth and "
            rf"{MAR}/quantizer_ema.pth, or for vae_ema.pth and quantizer_ema.pth; check",
        ),
        (
            _without(f"{FLUX}/{QUANTIZER_FILE}"),
            FLUX,
            HubError,
            rf"{PUBLISHED}, commit [0-9a-f]{{12}}, lacks {FLUX}/{QUANTIZER_FILE}: looked for",
        ),
        (
            lambda hub: hub.lying_sizes.update({f"{FLUX}/{VAE_FILE}": 10**12}),
            FLUX,
            HubError,
            f"has a {FLUX}/{VAE_FILE} of {10**12:,} bytes, expected [0-9,]{{10}} at most; nothing was downloaded",
        ),
    ],
)
def test_what_cannot_be_had(
    hub: Hub, publish: Publish, change: Callable[[Hub], Any], name: str, kind: type[CodaError], message: str
) -> None:
    publish()
    change(hub)
    with pytest.raises(kind, match=message):
        CodaTokenizer.from_pretrained(f"official:{name}")
    assert PUBLISHED in hub.gated or asked_for(hub) == []


def test_what_was_damaged_on_its_way_is_not_kept(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    commit = publish()
    whole = hub.head(PUBLISHED)[f"{FLUX}/{VAE_FILE}"]
    hub.corrupted = {f"{FLUX}/{VAE_FILE}"}
    with pytest.raises(HubError, match=r"vae_ema\.pth of .* has SHA-256 .*, and the Hub lists .*: it was damaged"):
        CodaTokenizer.from_pretrained(f"official:{FLUX}")
    assert not list((tmp_path / "hf").rglob(VAE_FILE))
    hub.corrupted.clear()
    read = CodaTokenizer.from_pretrained(f"official:{FLUX}@{commit}")
    assert read.checkpoint is not None
    assert read.checkpoint["files"][f"{FLUX}/{VAE_FILE}"] == hashlib.sha256(whole).hexdigest()


def test_a_published_file_runs_no_code(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    publish()
    folder = tmp_path / "attack"
    write(folder, {VAE_FILE: {"encoder.conv_in.weight": Attack()}})  # type: ignore[dict-item]
    hub.head(PUBLISHED)[f"{FLUX}/{VAE_FILE}"] = (folder / VAE_FILE).read_bytes()
    with pytest.raises(WeightsError, match="holds more than tensors"):
        CodaTokenizer.from_pretrained(f"official:{FLUX}")
    assert not (tmp_path / "owned").exists()


def test_a_file_exchanged_after_it_was_fetched_is_not_loaded(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    real = published_checkpoint.fetch_files

    def fetch_files(*args: Any) -> Any:
        fetched = real(*args)
        path = next(iter(fetched.paths.values()))
        path.unlink()
        torch.save(checkpoint(FLUX, 1)[1][VAE_FILE], path)
        return fetched

    monkeypatch.setattr(published_checkpoint, "fetch_files", fetch_files)
    with pytest.raises(WeightsError, match="was changed while it was loaded; run it again"):
        CodaTokenizer.from_pretrained(f"official:{FLUX}")
