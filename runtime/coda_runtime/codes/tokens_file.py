"""tokens.npz: ids, and what `coda encode` writes beside them: the names of their images, and whose tokens they are.

Keys: ids int32 [N,L]; names, unicode [N]; scales, int64 [S] sides or [S,2] heights and widths;
vocab_size int64; made_with, unicode [k], the
fingerprints of the bundle; color, unicode, what the images' values were taken for (older files have none, which is
"stored"). A file of another program may have the ids alone: what else it has is checked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import TokenError
from ..format.sizes import plain
from ..format.spec import Spec
from ..io.npy import NUMBERS, read_npz

_KEYS = {"ids": "iu", "names": "U", "scales": "iu", "vocab_size": "iu", "made_with": "U", "color": "U"}


class Maker(Protocol):
    """What a file tells of the tokenizer that its ids belong to, as `Tokenizer` has it."""

    spec: Spec
    fingerprints: tuple[str, ...]
    folder: Path
    color: str


@dataclass(frozen=True)
class TokensFile:
    """Ids int32 [N,L] with one name a row, relative and with forward slashes; the row's number where it has none.

    `known` says whether the file tells the tokenizer that it was made with, which then is that it was read for.
    """

    ids: npt.NDArray[Any]
    names: tuple[str, ...]
    known: bool


def write_tokens(path: Path, ids: npt.NDArray[np.int32], names: Sequence[str], tok: Maker) -> None:
    """Write tokens.npz for ids int32 [N,L] that `tok` made. Raises OSError."""
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            ids=ids,
            names=np.array(names, dtype=np.str_),
            scales=np.array(tok.spec.scales),
            vocab_size=np.array(tok.spec.vocab_size),
            made_with=np.array(tok.fingerprints),
            color=np.array(tok.color),
        )


def read_tokens(path: Path, tok: Maker) -> TokensFile:
    """Read tokens.npz. Raises TokenError if it is damaged, or made with another tokenizer than `tok`."""
    data = _read(path)
    spec = tok.spec
    known = "made_with" in data
    made_with = [str(fingerprint) for fingerprint in data["made_with"].ravel()] if known else []
    if known:
        check_maker(path, made_with, tok)
    expected = {"scales": plain(spec.scales), "vocab_size": spec.vocab_size}
    found = {key: data[key].tolist() if key in data else value for key, value in expected.items()}
    if found != expected:
        raise TokenError(
            f"{path} has scales {found['scales']} and a codebook of {found['vocab_size']}, the bundle "
            f"{expected['scales']} and {spec.vocab_size}; decode it with the bundle that it was encoded with"
        )
    ids = data["ids"]
    names = data["names"] if "names" in data else np.array([f"{row:05d}" for row in range(len(np.atleast_1d(ids)))])
    if ids.ndim != 2 or names.shape != ids.shape[:1]:
        raise TokenError(
            f"{path} has ids {list(ids.shape)} and names {list(names.shape)}; expected [N,L] and [N]; encode again"
        )
    return TokensFile(ids, tuple(map(str, names)), known)


def check_maker(where: object, made_with: Sequence[str], tok: Maker) -> None:
    """Raise TokenError unless one of the fingerprints `made_with`, which `where` names, is `tok`'s."""
    if not set(made_with) & set(tok.fingerprints):
        raise TokenError(
            f"{where} was made with another tokenizer ({_short(made_with)}, and {tok.folder} has "
            f"{_short(tok.fingerprints)}); decode it with the bundle that it was encoded with"
        )


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise TokenError(f"{path} is not a .npz file, or it is truncated; expected what `coda encode` writes")
        data = read_npz(path, NUMBERS + "U")
    except FileNotFoundError as error:
        raise TokenError(f"there is no file {str(path)!r}; expected what `coda encode` writes") from error
    except (OSError, ValueError) as error:
        raise TokenError(f"{path} cannot be read ({error}); encode the images again") from error
    if "ids" not in data:
        raise TokenError(
            f"{path} has no key 'ids', only {', '.join(sorted(data)) or 'nothing'}; expected what `coda encode` writes"
        )
    for key, kinds in _KEYS.items():
        if key in data and data[key].dtype.kind not in kinds:
            raise TokenError(f"{path}: {key} is {data[key].dtype}; expected what `coda encode` writes; encode again")
    return data


def _short(fingerprints: Sequence[str]) -> str:
    return f"{fingerprints[0][:24]}..." if fingerprints else "nothing"
