"""Write what this version of the project makes, for every later version to read: data/MAJOR.MINOR/.

    make test && .venv/bin/python -m tests.compatibility.write

Run it once, on the commit of a release, from the root of the checkout, and commit the folder. What is there is never
written again: it stands for the files that users have. Only commands write here, each a process in the new folder, so
that paths in files are relative. Three things cannot be had that way, and are made up as little as possible:

    tokens, unfinished      `coda tokenize` without Ray's processes, which would not see the source: versions.SOURCE
    training, vae-training  runs that reached their end, taken back to the checkpoint before: as if they were killed
    engines                 TensorRT's plans need a GPU: their keys are made by the same code, and all plans are stubs
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

import coda_runtime
from coda_deploy import CodaTokenizer, LoraConfig
from coda_runtime.build.options import BuildOptions
from coda_runtime.bulk.run import tokenize
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.engine_key import EngineKey
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.images import fit
from coda_runtime.io.atomic_files import staged_folder
from tests import hub_server
from tests.compatibility.versions import BROKEN, DATA, TOKENIZE, pictures_at_source, readable
from tests.deploy.official import narrow
from tests.deploy.train import runs
from tests.deploy.train.vae import trainings
from tests.runtime.bulk.local_pipeline import Here, without_ray
from tests.tiny_tokenizers import enliven, images

KEPT, LAST = 4, 6
"""Steps: of the checkpoint that is kept, and of the end."""
SMALL_VAE = {"block_out_channels": [2, 4], "latent_channels": 2}
SAVE = {"every": KEPT, "log": 2, "pictures": 0, "keep": 2}


def name_of_version() -> str:
    """MAJOR.MINOR of this package: a patch writes what its version wrote."""
    return ".".join(coda_runtime.__version__.split(".")[:2])


def write(data: Path) -> Path:
    """Write the folder of this version in ``data`` and return it, or exit where it is there."""
    place = data / name_of_version()
    if place.exists():
        sys.exit(f"{place} is there already and stays as it is: raise the version first, see CONTRIBUTING.md")
    with TemporaryDirectory() as scratch, staged_folder(place) as folder:
        write_pictures(folder / "pictures")
        write_tokenizers(folder, Path(scratch))
        write_bundle(folder, Path(scratch))
        write_engines(folder)
        write_expected(folder)
        write_tokens(folder)
        write_trainings(folder, Path(scratch))
        coda(folder, "encode", "bundle", "pictures/second", "--out", "tokens.npz")
        measured = coda(folder, "eval", "tokenizer", "--data", "pictures", "--against", "bundle", "--json")
        (folder / "eval.json").write_text(measured, encoding="utf-8")
        write_bench(folder)
    return place


def coda(folder: Path, *arguments: object, module: str = "coda_runtime.cli", **environment: str) -> str:
    """Run `coda` in a folder, on one thread, and return what it prints. Raises CalledProcessError."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    print("coda", *arguments, file=sys.stderr, flush=True)  # noqa: T201
    return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_pictures(folder: Path) -> None:
    """Six images in two folders, wider and higher than any tokenizer here takes, and a file that is none."""
    names = ("first/00", "first/01", "first/02", "second/04", "second/05", "second/06")
    for number, (name, pixels) in enumerate(zip(names, images(len(names), 40), strict=True)):
        place = folder / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()[number:, : 40 - number]).save(place, optimize=True)
    (folder / BROKEN).write_text("not an image\n", encoding="utf-8")


def write_tokenizers(folder: Path, scratch: Path) -> None:
    """Save a tokenizer with LoRA and attention, and import one: with provenance.json."""
    settings = {**runs.SETTINGS, "mid_block_add_attention": True, "scaling_factor": 2.0, "shift_factor": 0.4}
    lora = LoraConfig(rank=2)
    tokenizer = CodaTokenizer.from_vae(
        AutoencoderKL(**settings),
        image_size=runs.SIZE,
        vocab_size=64,
        scales=(1, 2, 4, 8),
        variant="tiny",
        attention_dim=8,
        lora=lora,
        license="Apache-2.0",
    ).eval()
    enliven(tokenizer, seed=1)
    check_ids(tokenizer, readable(folder), codes=12)
    tokenizer.save_pretrained(folder / "tokenizer")

    variant = "flux_v65536"
    with_narrow = {"module": "tests.deploy.official.narrow", "PYTHONPATH": os.pathsep.join(sys.path)}
    narrow.VARIANTS.update(narrow.narrow_variants())
    narrow.write(scratch / "official", narrow.checkpoint(variant)[1])
    arguments = ("import-official", scratch / "official", "--variant", variant, "--out", "imported")
    coda(folder, *arguments, **with_narrow)
    check_ids(CodaTokenizer.from_pretrained(folder / "imported"), readable(folder), codes=5)


def check_ids(tokenizer: CodaTokenizer, paths: list[Path], codes: int) -> None:
    """Exit where a ten-thousandth of the latent decides on an id, as a processor may, or where few codes are used."""
    pixels = np.stack([fit(path, tokenizer.spec.image_size) for path in paths])
    with torch.no_grad():
        latent = tokenizer.encode_latent(torch.from_numpy(pixels))
        ids, generator = tokenizer.quantizer.encode(latent), torch.Generator().manual_seed(0)
        for _ in range(20):
            noise = 1e-4 * latent.std() * torch.randn(latent.shape, generator=generator)
            if not torch.equal(tokenizer.quantizer.encode(latent + noise), ids):
                sys.exit("some ids are near ties: choose other weights")
    if len(ids.unique()) < codes:
        sys.exit(f"only {len(ids.unique())} codes are in use: choose other weights")


def write_bundle(folder: Path, scratch: Path) -> None:
    """Export in three precisions, under thresholds of its own, and take the card that a push writes."""
    thresholds = ("--min-agreement", "0.5", "--min-psnr", "20")
    coda(folder, "export", "tokenizer", "--out", "bundle", "--precision", "fp32,fp16,bf16", *thresholds)
    with hub_server.serving(hub_server.Hub()) as hub:
        environment = hub_server.environment(hub.url, scratch / "hub")
        coda(folder, "push", "bundle", "org/name", **environment)
        pushed = hub.head("org/name")
    for name in pushed.keys() - {".gitattributes"}:
        place = folder / "bundle" / name
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(pushed[name])


def write_engines(folder: Path) -> None:
    """Export with PTX and TensorRT-RTX's plans; then stubs for these, and TensorRT's beside them."""
    engines = folder / "engines"
    build = ("--engine", "ptx", "--engine", "tensorrt-rtx", "--target", "sm89", "--batch", "1,2,4")
    coda(folder, "export", "tokenizer", "--out", engines.name, *build)
    manifest = Bundle.open(engines).manifest
    plans = [with_stub(engines, plan) for plan in manifest.artifacts if plan.format == "tensorrt-rtx"]
    plans += [with_stub(engines, plan) for plan in plans_of_tensorrt(manifest)]
    others = [artifact for artifact in manifest.artifacts if artifact.format != "tensorrt-rtx"]
    seal(engines, dataclasses.replace(manifest, artifacts=(*others, *plans)))


def plans_of_tensorrt(manifest: Manifest) -> list[Artifact]:
    """What a machine with a GPU would add: for its own model, and for later GPUs and versions too."""
    kinds = {
        "nvidia-l4": BuildOptions((1, 2, 4)),
        "ampere-plus": BuildOptions((1, 2, 4), hardware="ampere-plus", version_compatible=True),
        "two-profiles": BuildOptions([(1, 1, 1), (2, 3, 4)]),
    }
    found = []
    for part in ("encoder", "quantizer", "decoder"):
        (source,) = manifest.find(part, format="onnx")
        (rtx,) = manifest.find(part, format="tensorrt-rtx")
        for name, options in kinds.items():
            key = EngineKey.made_here(
                library="tensorrt",
                library_version="11.4.0",
                targets=("sm89",),
                onnx=source,
                flags=options.flags(),
                gpu="NVIDIA L4",
                driver="13.0",
                layers=(rtx.engine or {})["layers"],
            ).to_json()
            file = f"engines/{part}.fp32.tensorrt-sm89-{name}-linux-x86_64.engine"
            plan = dataclasses.replace(rtx, format="tensorrt", file=file, engine=key, parity={})
            found.append(plan.with_profiles(options.profiles))
    return found


def with_stub(folder: Path, plan: Artifact) -> Artifact:
    """Write a few bytes in the place of a plan."""
    (folder / plan.file).write_text(f"in the place of a plan: {plan.file}\n", encoding="utf-8")
    sha256, size = describe_file(folder, plan.file)
    return dataclasses.replace(plan, sha256=sha256, bytes=size)


def write_expected(folder: Path) -> None:
    """What the bundle makes of the pictures, and the ids of the imported tokenizer."""
    paths = readable(folder)
    with coda_runtime.load(folder / "bundle", device="cpu", threads=1) as tok:
        ids = tok.encode(paths)
        arrays = {
            "ids": ids,
            "decoded": tok.decode(ids),
            "coarse": tok.decode(ids[:, : tok.spec.prefix_lengths[1]]),
            "embedded": tok.embed(ids),
        }
    imported = CodaTokenizer.from_pretrained(folder / "imported")
    pixels = torch.from_numpy(np.stack([fit(path, imported.spec.image_size) for path in paths]))
    (folder / "expected").mkdir()
    np.savez_compressed(folder / "expected" / "images.npz", **arrays, imported=imported.encode(pixels).numpy())


def write_tokens(folder: Path) -> None:
    """Tokenize the pictures to the end, and again up to the shard of the picture that is none."""

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pictures_at_source(folder) as source:
        with without_ray():
            tokenize(folder / "bundle", source, folder / "tokens", **TOKENIZE)
        with without_ray(Here(seed=1)), suppress(KeyboardInterrupt):
            tokenize(folder / "bundle", source, folder / "unfinished", report=stop, **TOKENIZE)
    (shard,) = (folder / "unfinished").glob("*.parquet")
    if shard.name != "shard-00001.parquet":
        sys.exit(f"the run that is stopped finished {shard.name} first: choose another seed")


def write_trainings(folder: Path, scratch: Path) -> None:
    """`coda train-vae` and `coda train`: the newest checkpoint but one, and the weights at the end."""
    runs.make_vae().save_pretrained(scratch / "vae")
    optim = {"steps": LAST, "lr": 1e-3}
    (scratch / "vae.toml").write_text(
        trainings.config(vae=SMALL_VAE, optim=optim, save=SAVE).to_toml(), encoding="utf-8"
    )
    optim |= {"lr_quantizer": 1e-3}
    (scratch / "tokenizer.toml").write_text(runs.config(optim=optim, save=SAVE).to_toml(), encoding="utf-8")
    given = ("--data", "pictures", "--out")
    coda(folder, "train-vae", "--config", scratch / "vae.toml", *given, "vae-training")
    vae = ("--vae", scratch / "vae")
    coda(folder, "train", "--config", scratch / "tokenizer.toml", *vae, *given, "training")
    for name, weights in (("vae-training", trainings.WEIGHTS), ("training", "model.safetensors")):
        out = folder / name
        (out / weights).rename(folder / "expected" / f"{name}.safetensors")
        (out / "config.json").unlink()
        shutil.rmtree(out / "checkpoints" / f"step-{LAST:08}")
        lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= KEPT]
        (out / "log.jsonl").write_text("".join(kept), encoding="utf-8")


def write_bench(folder: Path) -> None:
    """Measure one operation in every scenario, for as short a time as that can be; without the name of the kernel."""
    scenarios = ("--scenario", "single-stream,offline,server", "--latency-bound", "400", "--operation", "encode")
    timing = ("--batch", "2", "--seconds", "0.01", "--device", "cpu", "--threads", "1")
    coda(folder, "bench", "run", "bundle", *scenarios, *timing, "--out", "bench.json")
    text = (folder / "bench.json").read_text(encoding="utf-8")
    told = text.replace(platform.platform(), f"{platform.system()}-{platform.machine()}")
    (folder / "bench.json").write_text(told, encoding="utf-8")


if __name__ == "__main__":
    print(write(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA))  # noqa: T201
