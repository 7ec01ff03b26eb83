from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import coda_runtime
from coda_runtime import ArtifactError, ClosedError, ImageError, InputError, TokenError, Tokenizer, load, tokenizer
from tests.runtime import tiny

Copy = Callable[[Path], Path]
shared_tok = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
id_arrays = hnp.arrays(np.int32, st.tuples(st.integers(1, 4), st.sampled_from([1, 5, 21])), elements=st.integers(0, 15))


def _picture(latent: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The tiny decoder from the latent on, in numpy: float32 [B,C,4,4] -> uint8 [B,32,32,3]."""
    x = np.einsum("oc,bchw->bhwo", tiny.OUT[:, :, 0, 0], latent)
    x = np.clip(np.round(127.5 * x + 127.5), 0, 255).astype(np.uint8)
    return x.repeat(tiny.DOWN, axis=1).repeat(tiny.DOWN, axis=2)


def test_encode_and_decode(tok: Tokenizer) -> None:
    images = tiny.photos(3)
    ids = tok.encode(images)
    assert (ids.shape, ids.dtype, ids.flags.c_contiguous) == ((3, 21), np.int32, True)
    assert np.unique(ids).size > 3
    assert 0 <= ids.min() <= ids.max() < tiny.CODES
    out = tok.decode(ids)
    assert (out.shape, out.dtype) == ((3, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(tok.reconstruct(images), out)


def test_the_raw_graphs_give_the_same(tok: Tokenizer, sealed: Path) -> None:
    value: Any = tiny.photos(2)
    for name in ("encoder", "quantizer", "decoder"):
        session = onnxruntime.InferenceSession(sealed / f"{name}.fp32.onnx", providers=["CPUExecutionProvider"])
        value = session.run(None, {session.get_inputs()[0].name: value})[0]
    np.testing.assert_array_equal(tok.reconstruct(tiny.photos(2)), value)


def test_a_list_of_files_is_the_array_of_their_pixels(tok: Tokenizer, tmp_path: Path) -> None:
    images = tiny.photos(5)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    np.testing.assert_array_equal(tok.encode(paths), tok.encode(images))
    np.testing.assert_array_equal(tok.encode(list(images)), tok.encode(images))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_chunks_give_the_same_as_the_whole(tok: Tokenizer, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    images = tiny.photos(7, 40, 33)
    ids, out = tok.encode(images), tok.reconstruct(images)
    assert tok.images_per_run == 256
    monkeypatch.setattr(tok, "images_per_run", count)
    np.testing.assert_array_equal(tok.encode(images), ids)
    np.testing.assert_array_equal(tok.encode(list(images)), ids)
    np.testing.assert_array_equal(tok.decode(ids), out)


def test_parts_are_what_encode_and_decode_are_made_of(tok: Tokenizer) -> None:
    images = tiny.photos(6)  # more than a run takes
    tok.images_per_run = 4
    ids = tok.encode(images)
    latent = tok.run_parts(images, "encoder")
    assert (latent.shape, latent.dtype) == ((6, tiny.CHANNELS, tiny.SIDE, tiny.SIDE), np.float32)
    np.testing.assert_array_equal(tok.run_parts(latent, "quantizer"), ids)
    np.testing.assert_array_equal(tok.run_parts(images, "encoder", "quantizer"), ids)
    np.testing.assert_array_equal(tok.run_parts(ids, "decoder"), tok.decode(ids))
    np.testing.assert_array_equal(tok.run_parts(images, "encoder", "quantizer", "decoder"), tok.decode(ids))
    backwards = np.ascontiguousarray(latent[::-1])[::-1]
    np.testing.assert_array_equal(tok.run_parts(backwards, "quantizer"), ids)


@pytest.mark.parametrize(
    ("batch", "parts", "error", "match"),
    [
        (tiny.photos(1), (), InputError, "parts are ; expected some of encoder, quantizer, decoder, in order"),
        (tiny.photos(1), ("encoder", "decoder"), InputError, "parts are 'encoder', 'decoder'; expected"),
        (tiny.photos(1), ("vae",), InputError, "parts are 'vae'"),
        (
            tiny.photos(1, 40, 32),
            ("encoder",),
            InputError,
            r"\[1, 40, 32, 3\]; the encoder takes uint8 \[B,32,32,3\]",
        ),
        (tiny.photos(0), ("encoder",), InputError, "B from 1"),
        (tiny.photos(1), ("quantizer",), InputError, r"the quantizer takes float32 \[B,4,4,4\]"),
        (np.zeros((2, 5), np.int32), ("decoder",), InputError, r"int32 \[2, 5\]; the decoder takes int32 \[B,21\]"),
        (np.int32(3), ("decoder",), InputError, r"int32 \[\]; the decoder takes"),
        (np.full((1, 21), tiny.CODES, np.int32), ("decoder",), TokenError, r"ids\[0, 0\] is 16"),
    ],
)
def test_parts_say_what_they_take(
    tok: Tokenizer, batch: Any, parts: tuple[str, ...], error: type[InputError], match: str
) -> None:
    with pytest.raises(error, match=match):
        tok.run_parts(batch, *parts)


def test_masked_arrays_are_nowhere_taken(tok: Tokenizer) -> None:
    ids = np.ma.masked_greater(tok.encode(tiny.photos(2)), 7)
    images = np.ma.masked_greater(tiny.photos(2), 100)
    assert ids.mask.any()
    for call in (tok.decode, tok.embed, tok.split):
        with pytest.raises(TokenError, match=r"ids is a masked array.*ids\.filled\(value\)"):
            call(ids)
    for call in (tok.encode, tok.reconstruct, lambda array: tok.encode(list(array))):
        with pytest.raises(ImageError, match=r"is a masked array, and \d+ of its"):
            call(images)
    for array, part in ((images, "encoder"), (ids, "decoder")):
        with pytest.raises(InputError, match=r"batch is a masked array"):
            tok.run_parts(array, part)
    np.testing.assert_array_equal(tok.encode(np.ma.array(tiny.photos(2))), tok.encode(tiny.photos(2)))


def test_parts_are_watched_while_a_block_runs(tok: Tokenizer) -> None:
    ran: list[str] = []

    class Watched:
        def __init__(self, part: str, session: Any) -> None:
            self.part, self.session = part, session
            self.device, self.batch, self.close = session.device, session.batch, session.close

        def run(self, batch: Any) -> Any:
            ran.append(self.part)
            return self.session.run(batch)

    with tok.replaced_parts(Watched):
        watched = tok.reconstruct(tiny.photos(2))
    np.testing.assert_array_equal(tok.reconstruct(tiny.photos(2)), watched)
    assert ran == ["encoder", "quantizer", "decoder"]


def test_images_per_run_follows_the_image_size(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "MAX_PIXELS_PER_RUN", 2 * 32 * 32)
    with load(sealed) as tok:
        assert tok.images_per_run == 2
    monkeypatch.setattr(tokenizer, "MAX_PIXELS_PER_RUN", 1)
    with load(sealed) as tok:
        assert tok.images_per_run == 1
        assert tok.reconstruct(tiny.photos(3)).shape == (3, 32, 32, 3)


@shared_tok
@given(ids=id_arrays)
def test_decode_is_the_decoder_over_embed_for_any_prefix(tok: Tokenizer, ids: Any) -> None:
    latent = tok.embed(ids)
    assert (latent.shape, latent.dtype) == ((len(ids), 4, 4, 4), np.float32)
    difference = tok.decode(ids).astype(int) - _picture(latent)
    assert np.abs(difference).max() <= 1  # a sum in another order may round the other way


@shared_tok
@given(ids=id_arrays)
def test_embed_is_torchs_interpolation(tok: Tokenizer, ids: Any) -> None:
    torch = pytest.importorskip("torch")
    expected = np.zeros((len(ids), 4, 4, 4), np.float32)
    for part in tok.split(ids):
        values = torch.from_numpy(tok.codebook[part]).permute(0, 3, 1, 2)
        expected += torch.nn.functional.interpolate(values, (4, 4), mode="bicubic").numpy()
    np.testing.assert_allclose(tok.embed(ids), expected, atol=1e-5)


def test_the_codebook_is_the_value_table_and_read_only(tok: Tokenizer) -> None:
    np.testing.assert_array_equal(tok.codebook, tiny.TABLE)
    assert tok.codebook is tok.codebook
    with pytest.raises(ValueError, match="read-only"):
        tok.codebook[0, 0] = 1


def test_a_bundle_made_by_hand_does_all_but_embed(minimal: Path, tok: Tokenizer) -> None:
    with load(minimal) as handmade:
        np.testing.assert_array_equal(handmade.reconstruct(tiny.photos(2)), tok.reconstruct(tiny.photos(2)))
        for use in (lambda: handmade.codebook, lambda: handmade.embed(np.zeros((1, 1), np.int32))):
            with pytest.raises(ArtifactError, match="no value table"):
                use()


def test_wrong_ids_are_rejected_by_every_method(tok: Tokenizer) -> None:
    for method in (tok.decode, tok.embed, tok.split):
        with pytest.raises(TokenError, match=r"ids\[0, 0\] is 16"):
            method(np.full((1, 21), 16))


def test_it_says_what_it_is(tok: Tokenizer, sealed: Path) -> None:
    assert [(a.part, a.precision, a.backend, a.device, a.file) for a in tok.artifacts] == [
        (part, "fp32", "onnxruntime", "cpu", f"{part}.fp32.onnx") for part in ("encoder", "quantizer", "decoder")
    ]
    assert tok.spec.scales == (1, 2, 4)
    assert repr(tok) == (
        "<coda_runtime.Tokenizer tiny: 32 px, 21 tokens of 16; encoder fp32 cpu, quantizer fp32 cpu, decoder fp32 cpu>"
    )
    tok.close()
    assert repr(tok).endswith("16; closed>")


def test_a_closed_tokenizer_says_so(sealed: Path) -> None:
    with load(sealed) as tok:
        ids = tok.encode(tiny.photos(1))
    tok.close()
    uses: list[Callable[[], Any]] = [
        lambda: tok.encode(tiny.photos(1)),
        lambda: tok.decode(ids),
        lambda: tok.embed(ids),
        lambda: tok.codebook,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="load the bundle again"):
            use()


def test_many_threads_share_one_tokenizer(tok: Tokenizer) -> None:
    batches = [tiny.photos(1 + i % 4, seed=i) for i in range(24)]
    expected = [tok.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: (tok.encode(batches[i]), tok.decode(expected[i])), list(range(24)) * 4))
    for i, (ids, images) in enumerate(got):
        np.testing.assert_array_equal(ids, expected[i % 24])
        assert images.shape == (len(ids), 32, 32, 3)


def test_closing_waits_for_runs_and_stops_the_rest(sealed: Path) -> None:
    tok = load(sealed)
    tok.images_per_run = 1
    started, outcomes = threading.Event(), []

    def work() -> None:
        try:
            while True:
                tok.reconstruct(tiny.photos(3))
                started.set()
        except BaseException as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    tok.close()
    for thread in threads:
        thread.join(60)
    assert outcomes == [ClosedError] * 4


class TestLoad:
    def test_the_default_precision_rules_on_every_machine(self, minimal: Path, copy: Copy) -> None:
        folder = copy(minimal)
        for part in ("encoder", "decoder"):
            (folder / f"{part}.fp16.onnx").write_bytes((folder / f"{part}.fp32.onnx").read_bytes())

        def add(data: dict[str, Any]) -> None:
            copies = [a for a in data["artifacts"] if a["part"] != "quantizer"]
            data["artifacts"] += [{**a, "precision": "fp16", "file": a["file"].replace("fp32", "fp16")} for a in copies]
            data["default_precision"] = "fp16"

        tiny.edit_manifest(folder, add)
        with load(folder) as tok:
            assert [a.precision for a in tok.artifacts] == ["fp16", "fp32", "fp16"]
        with load(folder, precision="fp32") as tok:
            assert [a.precision for a in tok.artifacts] == ["fp32"] * 3
        with pytest.raises(InputError, match="precision is 'bf16'; this bundle has \"auto\", 'fp16', 'fp32'"):
            load(folder, precision="bf16")

    def test_a_part_that_lacks_the_precision_is_named(self, minimal: Path, copy: Copy) -> None:
        folder = copy(minimal)
        tiny.edit_manifest(folder, lambda data: data["artifacts"][2].update(precision="fp16"))
        with pytest.raises(coda_runtime.BundleError, match="has no decoder in fp32, only in fp16"):
            load(folder)

    def test_other_formats_do_not_stand_in_the_way(self, minimal: Path, copy: Copy) -> None:
        folder = copy(minimal)

        def add(data: dict[str, Any]) -> None:
            engine = {**data["artifacts"][0], "format": "tensorrt", "file": "engines/e.plan", "engine": {"sm": 89}}
            data["artifacts"].insert(0, engine)

        tiny.edit_manifest(folder, add)
        (folder / "engines").mkdir()
        (folder / "engines" / "e.plan").write_bytes((folder / tiny.FILES[0]).read_bytes())
        with load(folder) as tok:
            assert tok.artifacts[0].file == tiny.FILES[0]

    def test_a_part_only_in_another_format_is_explained(self, minimal: Path, copy: Copy) -> None:
        folder = copy(minimal)
        tiny.edit_manifest(folder, lambda data: data["artifacts"][0].update(format="tensorrt"))
        with pytest.raises(coda_runtime.BackendError, match="only as tensorrt, which onnxruntime cannot load"):
            load(folder, backend="onnxruntime")
        with pytest.raises(coda_runtime.MissingDependencyError, match=r'pip install "tensorrt>=10\.9"'):
            load(folder)

    def test_a_graph_of_another_part_is_found_out(self, tmp_path: Path) -> None:
        folder = tiny.make_minimal_bundle(tmp_path)
        files = [f"{part}.fp32.onnx" for part in ("decoder", "quantizer", "encoder")]

        def swap(data: dict[str, Any]) -> None:
            for artifact, part in zip(data["artifacts"], ("decoder", "quantizer", "encoder"), strict=True):
                artifact["part"] = part

        tiny.edit_manifest(folder, swap)
        assert all((folder / file).exists() for file in files)
        with load(folder) as tok, pytest.raises(coda_runtime.CodaError, match="export the bundle again"):
            tok.encode(tiny.photos(1))

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"device": "gpu"}, "device is 'gpu'"),
            ({"device": "cuda:x"}, "device is 'cuda:x'"),
            ({"device": "cuda:"}, "device is 'cuda:'"),
            ({"device": None}, "device is None"),
            ({"threads": 0}, "threads is 0"),
            ({"threads": True}, "threads is True"),
            ({"threads": 1.5}, "threads is 1.5"),
            ({"providers": "CPUExecutionProvider"}, "providers is 'CPUExecutionProvider'"),
            ({"providers": []}, "providers is an empty list"),
            ({"providers": [3]}, "providers holds 3"),
            ({"backend": "trt"}, r'backend is \'trt\'; expected one of "auto", "tensorrt", .*"onnxruntime"'),
            ({"backend": "tensorrt"}, "only as onnx, which tensorrt cannot load; build it: coda build .* --engine ten"),
        ],
    )
    def test_wrong_arguments_are_explained(self, sealed: Path, arguments: dict[str, Any], match: str) -> None:
        with pytest.raises(coda_runtime.CodaError, match=match):
            load(sealed, **arguments)

    def test_threads_and_providers_pass_through(self, sealed: Path, tok: Tokenizer) -> None:
        with load(sealed, threads=1, providers=["CPUExecutionProvider"]) as other:
            np.testing.assert_array_equal(other.encode(tiny.photos(2)), tok.encode(tiny.photos(2)))
