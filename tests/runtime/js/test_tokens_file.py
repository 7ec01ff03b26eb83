"""tokens.npz in runtime/js beside the Python side: the same files are taken, and told what is wrong with the others."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coda_runtime.codes.tokens_file import read_tokens
from coda_runtime.format.spec import Spec
from tests.runtime.js.bridge import Bridge, JsError

IDS = np.arange(10, dtype=np.int32).reshape(2, 5)
FULL: dict[str, Any] = {
    "ids": IDS, "names": np.array(["a.jpg", "Köln/日😀.png"]), "scales": np.array([1, 2]),
    "vocab_size": np.array(16), "made_with": np.array(["codebook:1"]), "color": np.array("stored"),
}  # fmt: skip


def maker(scales: list[Any]) -> Any:
    data = {
        "variant": "it", "image_size": 16, "downsample": 8, "latent_channels": 4, "vocab_size": 16,
        "scales": scales, "num_tokens": 5,
    }  # fmt: skip
    return SimpleNamespace(spec=Spec.from_json(data), fingerprints=("codebook:1",), folder=Path("it"), color="stored")


def told(js: Bridge, tok: Any, data: bytes) -> Any:
    """Read by JavaScript, for a tokenizer of the same manifest."""
    spec = js("spec.js", "readSpec", {**tok.spec.to_json(), "scales": list(map(list, tok.spec.scale_shapes))})
    return js("tokens_file.js", "readTokens", {"spec": spec, "fingerprints": list(tok.fingerprints)}, data, "it")


def packed(**changes: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{key: value for key, value in {**FULL, **changes}.items() if value is not None})
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"ids": IDS.astype("<u2")}, {"ids": IDS.astype("<i8")}, {"ids": IDS[:, :1]}, {"names": None},
        {"names": None, "scales": None, "vocab_size": None, "made_with": None, "color": None},
        {"scores": np.zeros(3)}, {"mask": np.zeros(3, bool), "weights": np.zeros((2, 3), order="F")},
    ],
    ids=["all", "uint16", "int64", "prefix", "no names", "ids alone", "float64 beside", "others beside"],
)  # fmt: skip
def test_what_python_takes(js: Bridge, tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "t.npz").write_bytes(packed(**changes))
    expected = read_tokens(tmp_path / "t.npz", maker([1, 2]))
    found = told(js, maker([1, 2]), packed(**changes))
    assert (np.stack(found["ids"]) == expected.ids).all()
    assert (tuple(found["names"]), found["known"]) == (expected.names, expected.known)


NOT_A_LETTER = header("<U1", (1,)) + b"\xff" * 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (packed(ids=IDS.astype("f4")), "ids of float32, where whole numbers belong"),
        (packed(names=np.array([1, 2])), "names of whole numbers, where words belong"),
        (packed(vocab_size=np.array("16")), "vocab_size of words, where whole numbers belong"),
        (packed(made_with=np.array([], "U1")), "made with another tokenizer (nothing)"),
        (packed(ids=IDS[0]), "has ids [5]; expected [N, L]"),
        (packed(ids=None), "has no ids, only color, made_with, names, scales, vocab_size"),
        (packed(ids=IDS[:0], names=np.array([], "U1")), "the batch is empty"),
        (packed(ids=IDS.astype(">i4")), "ids.npy, which has values of type >i4"),
        (zipped(ids=header("<i4", (10**9, 0))), "ids.npy, which has more elements than"),
        (zipped(ids=npy(IDS[:1]), names=header("<U0", (10**9,))), "names.npy, which has more elements than"),
        (zipped(ids=npy(IDS[:1]), names=NOT_A_LETTER), "a character of number 4294967295"),
    ],
    ids=[
        "float32", "numbers as names", "words as size", "made with none", "one row", "no ids", "no rows", "big-endian",
        "rows of nothing", "words of nothing", "no letter",
    ],
)  # fmt: skip
def test_what_neither_takes(js: Bridge, data: bytes, expected: str) -> None:
    with pytest.raises(JsError, match="TokenError") as caught:
        told(js, maker([1, 2]), data)
    assert expected in str(caught.value)


def test_a_damaged_entry_is_named(js: Bridge) -> None:
    data = bytearray(packed())
    data[data.index(b"ids.npy") + 40] ^= 0xFF
    with pytest.raises(JsError, match=r"TokenError: it cannot be read: it has a damaged entry ids\.npy"):
        told(js, maker([1, 2]), bytes(data))


def test_an_archive_that_would_unpack_to_far_more_than_itself(js: Bridge) -> None:
    """Entries of 16 MiB that all lie in one place: a tab's memory would be gone before the last."""
    data = bytearray(zipped(x=bytes(2**24)))
    end = data.rindex(b"PK\5\6")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    entry, count = bytes(data[start:end]), 1000
    tail = bytearray(data[end:])
    tail[8:12] = 2 * count.to_bytes(2, "little")
    tail[12:16] = (count * len(entry)).to_bytes(4, "little")
    with pytest.raises(JsError, match=r"TokenError: it cannot be read: it would unpack to \d+ bytes and more"):
        told(js, maker([1, 2]), bytes(data[:start]) + entry * count + bytes(tail))


def test_squares_that_a_manifest_has_as_pairs_are_python_s(js: Bridge, tmp_path: Path) -> None:
    tok = maker([[1, 1], [2, 2]])
    path = tmp_path / "t.npz"
    path.write_bytes(packed())
    assert read_tokens(path, tok).known
    assert told(js, tok, packed())["known"]
    spec = js("spec.js", "readSpec", {**tok.spec.to_json(), "scales": [[1, 1], [2, 2]]})
    written = js("tokens_file.js", "writeTokens", {"spec": spec, "fingerprints": ["codebook:1"]}, [IDS[0]], ["a"])
    path.write_bytes(bytes(written))
    assert read_tokens(path, tok).names == ("a",)


@pytest.mark.parametrize("names", [[5, 6], "ab", None, ["a"]], ids=str)
def test_names_are_words(js: Bridge, names: Any) -> None:
    spec = js("spec.js", "readSpec", maker([1, 2]).spec.to_json())
    with pytest.raises(JsError, match=r"TokenError: (names holds something else|there are)"):
        js("tokens_file.js", "writeTokens", {"spec": spec, "fingerprints": []}, list(IDS), names)
