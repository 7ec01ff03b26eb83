"""A published checkpoint as the source of a tokenizer: its two files, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from coda_deploy.errors import ConfigError, WeightsError
from coda_deploy.official.keys import QUANTIZER_FILE, VAE_FILE, as_ldm, official_key
from coda_deploy.tokenizer.config import TokenizerConfig
from coda_deploy.tokenizer.source import Source, Weights
from coda_deploy.tokenizer.storage import check_weights, read_state, to_bytes
from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.errors import one_line
from coda_runtime.hub_source.files import Choice, Fetched, fetch_files, first_complete, lacking
from coda_runtime.hub_source.names import HubName, parse_hub_name
from coda_runtime.io.regular_files import open_regular

PUBLISHED = "shuidi0020/CODA"
"""The repository on the Hub in which CODA's authors publish, with a folder for each variant."""

FILES = (VAE_FILE, QUANTIZER_FILE)

# A number of a state dict takes 8 bytes at most; names, shapes and the archive around them stay far below the rest.
_BYTES_A_VALUE = 8
_OVERHEAD = 16 * 2**20


class Checkpoint(Source):
    """One variant's files, in a folder or a repository: in a subfolder of the variant's name, or at the root."""

    def __init__(self, variant: str, source: Path | HubName) -> None:
        """Raise ``ConfigError`` for an unknown variant; nothing is read yet."""
        if variant not in VARIANTS:
            raise ConfigError(f"unknown variant {variant!r}, expected one of {', '.join(VARIANTS)}")
        self._variant, self._source = variant, source

    @property
    def config(self) -> TokenizerConfig:
        """The variant's."""
        return VARIANTS[self._variant]

    def read(self, expected: Mapping[str, Tensor]) -> Weights:
        """Find or fetch the two files, and read them, one after the other, into tensors like ``expected``.

        Raises ``WeightsError`` for what is missing, damaged or misshapen, ``HubError`` where the Hub did not deliver.
        """
        names = {key: official_key(key, ldm=self._variant.startswith("mar")) for key in expected}
        wanted: dict[str, dict[str, Tensor]] = {file: {} for file in FILES}
        for key, (file, name) in names.items():
            wanted[file][name] = as_ldm(name, expected[key])
        found_files, fetched = self._find(_choices(self._variant, wanted))
        tensors: dict[str, Tensor] = {}
        digests: dict[str, str] = {}
        for file, (name_there, path) in zip(FILES, found_files.items(), strict=True):
            data = _read(path)
            digests[name_there] = hashlib.sha256(data).hexdigest()
            if fetched is not None and digests[name_there] != fetched.sha256[name_there]:
                raise WeightsError(f"{path} was changed while it was loaded; run it again")
            found = read_state(path, data)
            del data
            check_weights(found, wanted[file], str(path), "is it the variant you named? is the file whole?")
            for key, (where, name) in names.items():
                if where == file:
                    # Taken out, so that of a half-precision file no second copy stays.
                    tensors[key] = found.pop(name).float().reshape(expected[key].shape)
        return Weights(tensors, {"files": digests} if fetched is None else _record(fetched))

    def digest(self, weights: Mapping[str, Tensor]) -> str:
        """Hash what `coda import-official` would write, so that both ways to a bundle name the same weights."""
        return hashlib.sha256(to_bytes(weights)).hexdigest()

    def _find(self, choices: Sequence[Choice]) -> tuple[Mapping[str, Path], Fetched | None]:
        """Return {name: path} of FILES, and what was fetched if they are from the Hub."""
        if isinstance(self._source, HubName):
            fetched = fetch_files(self._source, choices)
            return fetched.paths, fetched
        root = self._source
        if not root.is_dir():
            raise WeightsError(
                f"no folder at {root}: give the folder with {VAE_FILE} and {QUANTIZER_FILE}, or a hub id like "
                f"{PUBLISHED}"
            )
        present = [file for choice in choices for file in choice if (root / file).is_file()]
        choice = first_complete(choices, present)
        if choice is None:
            raise WeightsError(f"{root} {lacking(choices, present)}; copy there what is missing, or name their folder")
        return {file: root / file for file in choice}, None


def open_published(text: str) -> Checkpoint:
    """Open ``VARIANT`` or ``VARIANT@REVISION`` of the published repository: what ``official:`` stands before.

    Raises ``ConfigError`` for an unknown variant, ``InputError`` for a revision that is none.
    """
    variant, at, revision = text.partition("@")
    return Checkpoint(variant, parse_hub_name(PUBLISHED, revision if at else None))


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({one_line(error)}); check its permissions and the disk") from error


def _choices(variant: str, wanted: Mapping[str, Mapping[str, Tensor]]) -> list[Choice]:
    max_bytes = {
        file: _BYTES_A_VALUE * sum(tensor.numel() for tensor in tensors.values()) + _OVERHEAD
        for file, tensors in wanted.items()
    }
    return [{f"{variant}/{file}": max_bytes[file] for file in FILES}, {file: max_bytes[file] for file in FILES}]


def _record(fetched: Fetched) -> dict[str, Any]:
    name = fetched.name
    return {"hub": name.repo, "revision": name.revision, "commit": fetched.commit, "files": dict(fetched.sha256)}
