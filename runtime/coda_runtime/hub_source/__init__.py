"""Bundles on the Hugging Face Hub: found by their id, fetched, pulled into a folder, pushed with a model card.

Needs huggingface_hub (extra `hub`), which is imported only when the Hub is meant. `coda_runtime.hub.pull.pull` and
`coda_runtime.hub.push.push` are `coda pull` and `coda push`.
"""

from .find import find_bundle

__all__ = ["find_bundle"]
