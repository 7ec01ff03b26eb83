"""What a bundle's provenance tells of the continuous VAE that the tokenizer came from.

Who has a diffusion model of that VAE learns from it whether the decoder may be given that model's latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..io.counts import count

UNCHANGED, ADAPTED, OTHER = "unchanged", "changed by LoRA", "other weights than the VAE's"
"""What the record says of encoder and decoder, null where nobody recorded what they were."""
NOT_RECORDED = "not recorded"
_KEY = "vae"


def vae_rows(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and what to tell; what a bundle does not say, or says in another form, is not recorded."""
    record = provenance.get(_KEY)
    told = record if isinstance(record, Mapping) else {}
    name, source = _text(told.get("class")), _text(told.get("source"))
    yield "VAE", NOT_RECORDED if name is None else f"{name} from {source or 'a source that is not recorded'}"
    yield "latent statistics", _statistics(told)
    for part, gives in (("encoder", "gives"), ("decoder", "decodes")):
        state = _text(told.get(part))
        if state is None:
            yield f"VAE's {part}", NOT_RECORDED
        elif state == UNCHANGED:
            yield f"VAE's {part}", f"{state}: it {gives} the VAE's own latents"
        else:
            yield f"VAE's {part}", f"{state}: it no longer {gives} the VAE's own latents"


def _statistics(told: Mapping[str, Any]) -> str:
    scale, shift = (_numbers(told.get(f"latent_{name}")) for name in ("scale", "shift"))
    if scale is None or shift is None:
        return NOT_RECORDED
    formula = f"{scale} x (mean - {shift})"
    source = _text(told.get("statistics"))
    return formula if source is None else f"{formula}, from {source}"


def _numbers(value: object) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, list) and value and all(_numbers(number) for number in value if not isinstance(number, list)):
        return f"[{_numbers(value[0])}, ... {count(len(value), 'channel')}]"
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
