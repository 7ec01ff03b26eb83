"""What happens to checkpoints that are not whole: each fault named, no code run."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coda_deploy import ConfigError, WeightsError
from coda_deploy.official import checkpoint as importer_checkpoint
from coda_deploy.official import import_official
from coda_deploy.official.keys import QUANTIZER_FILE, VAE_FILE
from coda_deploy.tokenizer.variants import VARIANTS
from tests.deploy.official.narrow import checkpoint, narrow_variants, write
from tests.tiny_tokenizers import images


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in narrow_variants().items():
        monkeypatch.setitem(VARIANTS, name, config)


@pytest.mark.parametrize("variant", ["mar_v16384", "flux_v65536"])
def test_every_weight_lands_where_it_came_from(tmp_path: Path, variant: str) -> None:
    tokenizer, files = checkpoint(variant)
    read = import_official(write(tmp_path / "official", files), variant)
    for key, tensor in tokenizer.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor), key
    pictures = images(1, read.spec.image_size)
    assert torch.equal(read.encode(pictures), tokenizer.encode(pictures))
    assert not read.training
    assert {name for name, p in read.named_parameters() if p.requires_grad} == {name for name, _ in read.trainable()}


def test_half_precision_checkpoints_are_read_as_float32(tmp_path: Path) -> None:
    _, files = checkpoint("flux_v65536")
    halves = {file: {key: tensor.half() for key, tensor in state.items()} for file, state in files.items()}
    read = import_official(write(tmp_path / "official", halves), "flux_v65536")
    assert {p.dtype for p in read.parameters()} == {torch.float32}


def test_the_files_remembered_are_those_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is exchanged between its reading and all that comes after."""
    tokenizer, files = checkpoint("flux_v65536")
    folder = write(tmp_path / "official", files)
    first = hashlib.sha256((folder / VAE_FILE).read_bytes()).hexdigest()
    _, other = checkpoint("flux_v65536", seed=1)
    real = importer_checkpoint.read_state

    def read_state(path: Path, *data: bytes) -> dict[str, Any]:
        write(folder, other)
        return real(path, *data)

    monkeypatch.setattr(importer_checkpoint, "read_state", read_state)
    source = importer_checkpoint.Checkpoint("flux_v65536", folder)
    # The second file is read after the exchange, and its own bytes are what is remembered.
    second = hashlib.sha256((write(tmp_path / "other", other) / QUANTIZER_FILE).read_bytes()).hexdigest()
    read = source.read(tokenizer.state_dict())
    assert read.checkpoint == {"files": {VAE_FILE: first, QUANTIZER_FILE: second}}
    key = next(key for key in read.tensors if "encoder" in key)
    assert torch.equal(read.tensors[key], tokenizer.state_dict()[key])


def test_unknown_variant_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sd'.*mar_v16384, flux_v65536"):
        import_official(tmp_path, "sd")
    with pytest.raises(WeightsError, match=r"no folder at .*nowhere.*vae_ema\.pth and quantizer_ema\.pth"):
        import_official(tmp_path / "nowhere", "mar_v16384")


@pytest.mark.parametrize("file", [VAE_FILE, QUANTIZER_FILE])
def test_missing_file(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path / "official", checkpoint("mar_v16384")[1])
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=rf"official lacks {file}: looked for mar_v16384/vae_ema\.pth and "):
        import_official(folder, "mar_v16384")


@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.99])
def test_cut_file(tmp_path: Path, keep: float) -> None:
    folder = write(tmp_path / "official", checkpoint("mar_v16384")[1])
    whole = (folder / QUANTIZER_FILE).read_bytes()
    (folder / QUANTIZER_FILE).write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(WeightsError, match=rf"{QUANTIZER_FILE} is truncated, damaged, .*: download it again"):
        import_official(folder, "mar_v16384")


@given(st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever PyTorch's reader trips over; a flipped bit inside the numbers themselves cannot be seen."""
    path = tmp_path / QUANTIZER_FILE
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for place, flip in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), min_size=1)
    ):
        content[place] ^= flip
    (tmp_path / VAE_FILE).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with pytest.raises(WeightsError, match=f"{VAE_FILE} (is|has|lacks) "):
        import_official(tmp_path, "flux_v65536")


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02.", b"\x80\x02]q\x00(K\x01e.", b"\x80\x02h\x00.", b"\x80\x02X\x02", b"\x80\x02}q\x00K\x01K\x02s."],
    ids=["nothing to pop", "a list", "an unknown memo", "a cut length", "a number as a key"],
)
def test_pickles_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    for file in (VAE_FILE, QUANTIZER_FILE):
        (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{VAE_FILE} is "):
        import_official(tmp_path, "flux_v65536")


def test_text_instead_of_a_checkpoint(tmp_path: Path) -> None:
    folder = write(tmp_path / "official", checkpoint("mar_v16384")[1])
    (folder / VAE_FILE).write_text("<html>404</html>")
    with pytest.raises(WeightsError, match=rf"{VAE_FILE} is truncated, damaged, or holds more than tensors"):
        import_official(folder, "mar_v16384")


class _Attack:
    """Unpickled without care, it makes a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, zipped: bool) -> None:
    folder = write(tmp_path / "official", checkpoint("mar_v16384")[1])
    attack = {"encoder.conv_in.weight": _Attack(str(tmp_path / "owned"))}
    if zipped:
        torch.save(attack, folder / VAE_FILE)
    else:
        (folder / VAE_FILE).write_bytes(pickle.dumps(attack))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        import_official(folder, "mar_v16384")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"step": 7}, {"model": {"a": torch.zeros(1)}}])
def test_not_a_plain_state_dict(tmp_path: Path, content: Any) -> None:
    folder = write(tmp_path / "official", checkpoint("mar_v16384")[1])
    torch.save(content, folder / VAE_FILE)
    with pytest.raises(WeightsError, match="is not a plain state dict of tensors"):
        import_official(folder, "mar_v16384")


def test_missing_key_is_named(tmp_path: Path) -> None:
    _, files = checkpoint("mar_v16384")
    del files[VAE_FILE]["encoder.down.4.attn.1.q.weight"]
    with pytest.raises(WeightsError, match=r"lacks 1 key, first 'encoder\.down\.4\.attn\.1\.q\.weight'"):
        import_official(write(tmp_path / "official", files), "mar_v16384")


def test_extra_key_is_named_with_the_nearest_official_one(tmp_path: Path) -> None:
    _, files = checkpoint("mar_v16384")
    state = files[VAE_FILE]
    state["encoder.mid.attn_1.qq.weight"] = state.pop("encoder.mid.attn_1.q.weight")
    with pytest.raises(
        WeightsError,
        match=r"unexpected keys, first 'encoder\.mid\.attn_1\.qq\.weight' "
        r"\(nearest expected: 'encoder\.mid\.attn_1\.q\.weight'\), and lacks 1",
    ):
        import_official(write(tmp_path / "official", files), "mar_v16384")


def test_extra_key_beside_all_expected_ones(tmp_path: Path) -> None:
    _, files = checkpoint("flux_v65536")
    files[QUANTIZER_FILE]["attn.to_q.weights"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"first 'attn\.to_q\.weights' \(nearest expected: 'attn\.to_q\.weight'\)"):
        import_official(write(tmp_path / "official", files), "flux_v65536")


def test_misshapen_key_is_named_with_both_shapes(tmp_path: Path) -> None:
    _, files = checkpoint("flux_v65536")
    files[QUANTIZER_FILE]["codebooks.weight"] = torch.zeros(31, 16)
    with pytest.raises(WeightsError, match=r"'codebooks\.weight' has shape \[31, 16\], expected \[32, 16\]"):
        import_official(write(tmp_path / "official", files), "flux_v65536")
    # The same number of values in another shape is not taken either.
    files[QUANTIZER_FILE]["codebooks.weight"] = torch.zeros(16, 32)
    with pytest.raises(WeightsError, match=r"'codebooks\.weight' has shape \[16, 32\], expected \[32, 16\]"):
        import_official(write(tmp_path / "official", files), "flux_v65536")


@pytest.mark.parametrize(("is_", "named"), [("mar_v16384", "flux_v65536"), ("flux_v65536", "mar_v16384")])
def test_wrong_variant(tmp_path: Path, is_: str, named: str) -> None:
    folder = write(tmp_path / "official", checkpoint(is_)[1])
    with pytest.raises(WeightsError, match="is it the variant you named"):
        import_official(folder, named)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    _, files = checkpoint("flux_v65536")
    files[VAE_FILE]["decoder.conv_in.bias"][1] = value
    with pytest.raises(WeightsError, match=r"'decoder\.conv_in\.bias' holds NaN or infinite values"):
        import_official(write(tmp_path / "official", files), "flux_v65536")
