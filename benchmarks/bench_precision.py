"""What lower precisions cost in tokens and pixels, run by PyTorch on the CPU: ``python -m benchmarks.bench_precision``.

The folded modules in fp16 and bf16 beside the float32 tokenizer, on the shipped photographs. The thresholds in
coda_runtime/format/precision.py come from here: onnxruntime's CPU provider cannot run a bf16 convolution.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from benchmarks.common import save
from coda_deploy import CodaTokenizer
from coda_deploy.export import parity_images
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_deploy.sample import tokenizer_path
from coda_deploy.tokenizer.pixels import to_pixels
from coda_export.folding.precision import lowered
from coda_runtime.parity import mean_psnr, token_parity


@torch.inference_mode()
def main() -> None:
    """Print step agreement, free-running agreement and PSNR of each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path, nargs="?", default=tokenizer_path())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tokenizer = CodaTokenizer.from_pretrained(args.tokenizer)
    folded, reference = fold_tokenizer(tokenizer), TorchReference(tokenizer)
    images = parity_images(tokenizer.spec.image_size).pixels
    latent = reference.latent(images)
    ids = reference.encode(latent)
    decoded, embedded = reference.decode(ids), folded.decoder.embed(torch.from_numpy(ids))
    results = {}
    for precision in ("fp32", "fp16", "bf16"):
        encoder = copy.copy(folded.encoder)
        lower = lowered(folded.encoder.encoder, precision, folded.encoder.kept)
        encoder._modules = {**folded.encoder._modules, "encoder": lower}
        found = folded.quantizer(encoder(torch.from_numpy(images))).numpy()
        tokens = token_parity(found, ids, reference.step(latent, found), tokenizer.spec.scales)
        decoder = folded.decoder
        given = embedded if decoder.factor is None else embedded * decoder.factor
        given = given if decoder.offset is None else given + decoder.offset
        psnr = mean_psnr(to_pixels(lowered(decoder.decoder, precision, decoder.kept)(given)).numpy(), decoded)
        results[precision] = {**tokens, "psnr": psnr}
        shown = "identical" if psnr is None else f"{psnr:.1f} dB"
        print(f"{precision}: step {tokens['step_agreement']:.2%}, free {tokens['agreement']:.2%}, decoder {shown}")
    save(args.json, results)


if __name__ == "__main__":
    main()
