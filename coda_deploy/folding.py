"""From a trained tokenizer to what the exporter takes."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from coda_deploy.tokenizer.lora import merge_lora
from coda_deploy.tokenizer.model import CodaTokenizer
from coda_export.folding import Folded, SearchWeights, fold


@torch.no_grad()
def fold_tokenizer(tokenizer: CodaTokenizer) -> Folded:
    """Merge LoRA, fold the latent's scale and shift, reduce the search to one table. The tokenizer is not changed."""
    vae = copy.deepcopy(cast(nn.Module, tokenizer.vae))
    merge_lora(vae)
    quantizer = tokenizer.quantizer
    search = SearchWeights(
        to_q=quantizer.search.to_q,
        norm_q=quantizer.search.norm_q,
        keys=quantizer.search.keys(quantizer.codebook),
        values=quantizer.search.values(quantizer.codebook),
    )
    config = tokenizer.config
    return fold(config.family.parts(vae), search, config.latent_scale, config.latent_shift, tokenizer.spec)
