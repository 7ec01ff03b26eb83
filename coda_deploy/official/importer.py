"""Import a published checkpoint: ``vae_ema.pth`` and ``quantizer_ema.pth``, both plain state dicts."""

from __future__ import annotations

import os
from pathlib import Path

from coda_deploy.official.checkpoint import PUBLISHED, Checkpoint
from coda_deploy.tokenizer.model import CodaTokenizer
from coda_runtime.hub_source.find import path_or_name
from coda_runtime.hub_source.names import parse_hub_name


def import_official(
    source: str | os.PathLike[str] | None, variant: str, *, revision: str | None = None
) -> CodaTokenizer:
    """Load a checkpoint as ``variant`` (``mar_v16384`` or ``flux_v65536``), in eval mode.

    ``source`` is a folder, a hub id (``owner/name``, ``owner/name@revision``), or None for what CODA's authors publish;
    a folder that exists comes first. The files lie in its subfolder of the variant's name, or at its root.
    ``revision`` is a branch, tag or commit of a hub id. Where the weights came from is in ``.checkpoint``.

    Raises ``ConfigError`` for an unknown variant; ``WeightsError`` for a missing or damaged file, or a missing, extra
    or misshapen key, naming it and the nearest expected one; ``HubError`` where the Hub did not deliver; ``InputError``
    for a revision of a folder.
    """
    if source is None:
        return CodaTokenizer.from_source(Checkpoint(variant, parse_hub_name(PUBLISHED, revision)))
    return CodaTokenizer.from_source(Checkpoint(variant, path_or_name(source, revision) or Path(source)))
