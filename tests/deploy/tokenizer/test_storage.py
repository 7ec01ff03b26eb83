"""Tokenizer folders: bit-exact, refused with a reason when damaged, and never half written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coda_deploy import CodaError, CodaTokenizer, ConfigError, WeightsError
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.source import open_source
from coda_runtime.errors import OutputError
from tests.hub_server import Hub
from tests.tiny_tokenizers import images, make


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "tokenizer"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = {key: tensor.clone() for key, tensor in load_file(path).items()}
    change(weights)
    save_file(weights, path)


def test_round_trip_is_bit_exact(tiny_folder: Path) -> None:
    tok, read = make(), CodaTokenizer.from_pretrained(tiny_folder)
    assert read.config == CodaTokenizer.from_pretrained(str(tiny_folder)).config
    assert read.state_dict().keys() == tok.state_dict().keys()
    for key, tensor in tok.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor), key
    assert not read.training
    assert {n for n, p in read.named_parameters() if p.requires_grad} == {n for n, _ in read.trainable()}
    assert sorted(path.name for path in tiny_folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "provenance.json",
    ]


def test_a_second_trip_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    CodaTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "again")
    for path in tiny_folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage(tiny_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    make().save_pretrained(tmp_path / "half", dtype=dtype)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for key, tensor in stored.items() if key.startswith("quantizer.")} == {torch.float32}
    assert {tensor.dtype for key, tensor in stored.items() if key.startswith("vae.")} == {dtype}
    whole = (tiny_folder / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.7 * whole
    read = CodaTokenizer.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    assert torch.equal(read.quantizer.codebook, make().quantizer.codebook)
    with torch.no_grad():
        difference = read.encode_latent(images()) - make().encode_latent(images())
    assert 0 < float(difference.abs().max()) < 0.5


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_cut_weights(folder: Path, keep: float) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(WeightsError, match=r"model\.safetensors is truncated or damaged .*: copy it again"):
        CodaTokenizer.from_pretrained(folder)


def test_damaged_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="truncated or damaged"):
        CodaTokenizer.from_pretrained(folder)


def test_missing_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(WeightsError, match=r"has no model\.safetensors: copy it there"):
        CodaTokenizer.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"is not a tokenizer folder: it has no config\.json"):
        CodaTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2", b"NaN,", b"[" * 100_000, b'{"a": 1e999}'])
def test_config_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json is not readable JSON"):
        CodaTokenizer.from_pretrained(folder)


def test_a_plain_vae_s_config(folder: Path) -> None:
    make().vae.save_config(folder)
    with pytest.raises(ConfigError, match=r"found AutoencoderKL.*CodaTokenizer\.from_vae"):
        CodaTokenizer.from_pretrained(folder)


def test_a_newer_config(folder: Path) -> None:
    edit_config(folder, format_version=2)
    with pytest.raises(ConfigError, match="format_version 2, this coda-deploy reads 1: upgrade"):
        CodaTokenizer.from_pretrained(folder)


def test_scales_that_do_not_fit(folder: Path) -> None:
    edit_config(folder, scales=[1, 2, 4])
    with pytest.raises(ConfigError, match=r"\[1, 2, 4\] must end at 8"):
        CodaTokenizer.from_pretrained(folder)


def test_a_vae_that_diffusers_does_not_take(folder: Path) -> None:
    vae = json.loads((folder / "config.json").read_text())["vae"]
    edit_config(folder, vae=vae | {"norm_num_groups": 7})
    with pytest.raises(
        ConfigError, match=r"vae is not an AutoencoderKL configuration: num_channels .* must be divisible"
    ):
        CodaTokenizer.from_pretrained(folder)
    edit_config(folder, vae=vae | {"down_block_types": ["NoSuchBlock"] * 3})
    with pytest.raises(ConfigError, match="vae is not an AutoencoderKL configuration: NoSuchBlock"):
        CodaTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"down_block_types": 3},
        {"down_block_types": [None] * 3},
        {"norm_num_groups": 0},
        {"norm_num_groups": "8"},
        {"act_fn": []},
        {"in_channels": "3"},
        {"latent_channels": 2**16, "block_out_channels": [2**16] * 3},
        {"mid_block_add_attention": {}, "sample_size": []},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_a_vae_of_wrong_values_is_explained(folder: Path, change: dict[str, Any]) -> None:
    vae = json.loads((folder / "config.json").read_text())["vae"]
    edit_config(folder, vae=vae | change)
    with pytest.raises(CodaError):
        CodaTokenizer.from_pretrained(folder)


def test_unknown_key_is_named_with_the_nearest(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"quantizer.codebooks": w.pop("quantizer.codebook")}))
    with pytest.raises(
        WeightsError, match=r"'quantizer\.codebooks' \(nearest expected: 'quantizer\.codebook'\), and lacks 1"
    ):
        CodaTokenizer.from_pretrained(folder)


def test_an_ldm_autoencoder_s_weights_are_recognised(folder: Path) -> None:
    """Such as FLUX's ae.safetensors, which is no tokenizer."""
    names = ("encoder.down.0.block.0.conv1.weight", "decoder.up.3.block.2.norm2.bias", "decoder.conv_in.bias")
    save_file({name: torch.zeros(1) for name in names}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"a continuous VAE, and its diffusers folder .* by coda train --vae$"):
        CodaTokenizer.from_pretrained(folder)


def test_missing_key_is_named(folder: Path) -> None:
    edit_weights(folder, lambda w: w.pop("vae.quant_conv.bias"))
    with pytest.raises(WeightsError, match=r"lacks 1 key, first 'vae\.quant_conv\.bias' \(nearest found: 'vae\."):
        CodaTokenizer.from_pretrained(folder)


def test_weights_of_another_vocabulary(folder: Path) -> None:
    edit_config(folder, vocab_size=65)
    with pytest.raises(WeightsError, match=r"'quantizer\.codebook' has shape \[64, 4\], expected \[65, 4\]"):
        CodaTokenizer.from_pretrained(folder)


def test_weights_that_are_not_finite(folder: Path) -> None:
    edit_weights(folder, lambda w: w["quantizer.codebook"].fill_(float("nan")))
    with pytest.raises(WeightsError, match=r"'quantizer\.codebook' holds NaN or infinite values"):
        CodaTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "nowhere", "a/b/c", "~/x"])
def test_no_folder(name: str) -> None:
    with pytest.raises(WeightsError, match=r"no tokenizer folder at .*: give an existing folder, or a hub id like"):
        CodaTokenizer.from_pretrained(name)


def test_a_file_instead_of_a_folder(tiny_folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json is a file, expected a tokenizer folder"):
        CodaTokenizer.from_pretrained(tiny_folder / "config.json")


@pytest.mark.parametrize("given", ["", "@v1.0", "@feature/x"])
@pytest.mark.parametrize("provenance", [{}, {"provenance.json": b'{"checkpoint": {}, "weights_sha256": "0"}'}])
@pytest.mark.filterwarnings("ignore:.*describes other weights:RuntimeWarning")
def test_hub_ids(hub: Hub, tiny_folder: Path, given: str, provenance: dict[str, bytes]) -> None:
    made = {path.name: path.read_bytes() for path in tiny_folder.iterdir() if path.name != "provenance.json"}
    wanted = made | provenance
    hub.commit("someone/tokenizer", "main", {**wanted, "pytorch_model.bin": b"a pickle"})
    for branch in ("v1.0", "feature/x"):
        hub.refs["someone/tokenizer"][branch] = hub.refs["someone/tokenizer"]["main"]
    assert CodaTokenizer.from_pretrained(f"someone/tokenizer{given}")
    fetched = {path.rpartition("/")[2] for method, path in hub.asked if method == "GET" and "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", *provenance}


def test_a_hub_that_does_not_answer(hub: Hub) -> None:
    hub.failing = 503
    with pytest.raises(WeightsError, match=r"someone/tokenizer is not a local folder, .*did not.*check the name and"):
        CodaTokenizer.from_pretrained("someone/tokenizer")


def test_a_hub_whose_answers_are_not_to_be_believed(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.push_folder("someone/tokenizer", tiny_folder)
    hub.lying_sizes = {"config.json": 10}
    with pytest.raises(WeightsError, match=r"config\.json, asked for someone/tokenizer, sends more than 10 bytes"):
        CodaTokenizer.from_pretrained("someone/tokenizer")
    hub.lying_sizes = {"config.json": 10**9}
    with pytest.raises(WeightsError, match=r"has a config\.json of 1,000,000,000 bytes, expected 16,777,216 at most"):
        CodaTokenizer.from_pretrained("someone/tokenizer")
    hub.lying_sizes = {}
    hub.lying_headers["ETag"] = '"../../../../../written"'
    with pytest.raises(WeightsError, match="expected a plain hash"):
        CodaTokenizer.from_pretrained("someone/tokenizer")
    assert not list(tmp_path.rglob("*written*"))


def test_a_failed_save_leaves_what_was_there(folder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    for out in (folder, folder.parent / "new"):
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
            make(seed=3).save_pretrained(out)
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]
    for path in tiny_folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_saving_over_a_tokenizer_keeps_the_user_s_other_files(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    make(seed=3).save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert torch.equal(CodaTokenizer.from_pretrained(folder).quantizer.codebook, make(seed=3).quantizer.codebook)


def test_saved_files_are_as_readable_as_the_user_s_others(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    make().save_pretrained(tmp_path / "tokenizer")
    modes = {path.stat().st_mode for path in (tmp_path / "tokenizer").iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}


CHECKPOINT = {"hub": "a/b", "revision": "main", "commit": "0" * 40, "files": {"vae_ema.pth": "1" * 64}}


def test_where_weights_were_imported_from_is_kept_beside_them(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.checkpoint = CHECKPOINT
    tokenizer.save_pretrained(tmp_path / "one")
    read = CodaTokenizer.from_pretrained(tmp_path / "one")
    assert read.checkpoint == CHECKPOINT
    read.save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    # What reads nothing but these two, as older releases do, finds them as they always were.
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tiny_folder / name).read_bytes()
    assert CodaTokenizer.from_pretrained(tiny_folder).checkpoint is None
    without = make(seed=3)
    without.origin = None
    without.save_pretrained(tmp_path / "one")
    assert not (tmp_path / "one" / "provenance.json").exists()


def test_provenance_of_other_weights_is_not_believed(folder: Path) -> None:
    tokenizer = make()
    tokenizer.checkpoint = CHECKPOINT
    tokenizer.save_pretrained(folder)
    edit_weights(folder, lambda w: w["quantizer.codebook"].neg_())  # as a release would that knows no provenance.json
    with pytest.warns(RuntimeWarning, match=r"provenance\.json describes other weights than those in model\.safet"):
        assert CodaTokenizer.from_pretrained(folder).checkpoint is None


def test_the_checksum_is_that_of_the_weights_that_were_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is exchanged between its reading and all that comes after."""
    tokenizer = make()
    tokenizer.checkpoint = CHECKPOINT
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    real = storage.load

    def load(found: bytes) -> dict[str, torch.Tensor]:
        edit_weights(folder, lambda w: w["quantizer.codebook"].neg_())
        return real(found)

    monkeypatch.setattr(storage, "load", load)
    source = open_source(folder)
    read = source.read(tokenizer.state_dict())
    assert weights.read_bytes() != data
    assert torch.equal(read.tensors["quantizer.codebook"], tokenizer.state_dict()["quantizer.codebook"])
    assert read.checkpoint == CHECKPOINT
    assert source.digest(read.tensors) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weights_sha256": "0", "checkpoint": 3}'])
def test_provenance_that_is_damaged(folder: Path, content: str) -> None:
    (folder / "provenance.json").write_text(content)
    with pytest.raises(ConfigError, match=r"provenance\.json (is not readable|has a checkpoint) .*: .*, or remove it"):
        CodaTokenizer.from_pretrained(folder)


def test_saving_over_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="taken is a file"):
        make().save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_errors_share_one_root() -> None:
    assert issubclass(WeightsError, CodaError)
    assert issubclass(ConfigError, CodaError)
