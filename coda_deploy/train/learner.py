"""What is trained. Both are modules around a ``vae``, encode and decode images, and write a folder."""

from __future__ import annotations

from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.train.vae.model import VaeModel

Learner = CodaTokenizer | VaeModel
