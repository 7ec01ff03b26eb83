"""Checkpoints: folders that appear whole or not at all, and that are tokenizer folders themselves.

The one after 1000 steps is the folder ``OUT/checkpoints/step-00001000``:

    config.json, model.safetensors      the tokenizer with averaged weights: `coda export`, `coda eval` take it
    training.safetensors                raw weights, averages, optimizers, discriminator
    training.json                       step, configuration, figures since the last log line, what was skipped
    SHA256SUMS                          of all of them, as `sha256sum -c` reads it
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from coda_deploy.errors import ConfigError, WeightsError
from coda_deploy.train.learner import Learner
from coda_deploy.train.sections import Configuration
from coda_runtime.errors import ChecksumError, OutputError, one_line
from coda_runtime.format.checksums import format_sums, parse_sums, sha256_file
from coda_runtime.format.manifest import CHECKSUMS_NAME
from coda_runtime.io.atomic_files import staged_folder
from coda_runtime.io.counts import count
from coda_runtime.io.json_fields import describe, is_int, is_object, is_size, parse_json
from coda_runtime.machine.processors import describe_cpu

FOLDER, TENSORS, FACTS = "checkpoints", "training.safetensors", "training.json"
FORMAT_VERSION = 1
# Settings that change no number.
FREE = frozenset(
    {"data.workers", "tokenizer.vae", "tokenizer.init", "tokenizer.license", "loss.lpips_weights", "loss.dino_weights"}
)
# What left a setting to its default before, and what does now.
_DEFAULTS: dict[str, tuple[Any, ...]] = {"tokenizer.lora_targets": (["conv1", "conv2"], [])}
# The command that a table of the configuration belongs to.
_COMMANDS = {"tokenizer": "coda train", "vae": "coda train-vae"}
_NAME = re.compile(r"step-(\d{8,})")
# What staged_file and staged_folder name what is being written; the second is a checkpoint being removed.
_STAGED = r"\.\d+-[0-9a-f]{8}\.part"
_LEFT = re.compile(rf"\..+{_STAGED}|\.step-\d{{8,}}\.part")


@dataclass(frozen=True)
class Facts:
    """What ``training.json`` holds.

    ``step`` steps were done with ``images_per_step`` images each, of ``images`` in all (0: not known). ``window`` is
    ``Window.state()``; ``skipped`` has the reason for each image that was left out, by its name.
    """

    step: int
    config: dict[str, Any]
    images_per_step: int
    images: int = 0
    window: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def list_checkpoints(out: Path) -> list[Path]:
    """Return the complete checkpoints under ``out``, oldest first."""
    folder = out / FOLDER
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def save_checkpoint(out: Path, model: Learner, tensors: dict[str, Tensor], facts: Facts, keep: int) -> Path:
    """Write one beside its place and rename it, then remove the oldest ones over ``keep``. Raises ``OutputError``."""
    path = out / FOLDER / f"step-{facts.step:08}"
    with staged_folder(path, replace=True) as folder:
        model.save_pretrained(folder)
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        (folder / TENSORS).write_bytes(save(contiguous))
        text = json.dumps({"format_version": FORMAT_VERSION, **vars(facts)}, indent=1)
        (folder / FACTS).write_text(text + "\n", encoding="utf-8")
        digests = {file.relative_to(folder).as_posix(): sha256_file(file) for file in _files(folder)}
        (folder / CHECKSUMS_NAME).write_bytes(format_sums(digests))
    for old in list_checkpoints(out)[:-keep]:
        # Renamed first: killed half-way through, it must not look like a checkpoint.
        hidden = old.with_name(f".{old.name}.part")
        old.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """Load tensors on the CPU, and facts. Raises ``WeightsError`` for a missing, damaged or other version's file."""
    try:
        data = parse_json((path / FACTS).read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"{FACTS} holds {describe(data)}, expected an object")
        if data.pop("format_version") != FORMAT_VERSION:
            raise WeightsError(f"{path} was written by another version of coda-deploy: continue with that one")
        _check_sums(path)
        return load_file(path / TENSORS), _facts(data)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise damaged(path, one_line(error, named=True)) from error


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def _check_sums(path: Path) -> None:
    """Raise ``ValueError`` for a file that is not as it was written. Checkpoints of before have no SHA256SUMS."""
    sums = path / CHECKSUMS_NAME
    if not sums.exists():
        return
    try:
        listed = parse_sums(sums.read_bytes(), sums)
    except ChecksumError as error:  # it says what to do about a bundle
        raise ValueError(f"{CHECKSUMS_NAME} is damaged") from error
    for name, digest in listed.items():
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if sha256_file(path / name) != digest:
            raise ValueError(f"{name} is not what {CHECKSUMS_NAME} lists: it was altered")


def _facts(data: dict[str, Any]) -> Facts:
    """Return the facts. Raises ``ValueError`` for a value of another kind than was written, ``TypeError`` for a key."""
    for name, value in data.items():
        if name in _KINDS and not _KINDS[name](value):
            raise ValueError(f"{name} in {FACTS} is {describe(value)}")
    return Facts(**data)


def _is_table(value: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(kind, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_window(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return not value or (
        value.keys() == {"steps", "sums"} and is_size(value["steps"]) and _is_table(value["sums"], _is_number)
    )


def _is_number(value: Any) -> bool:
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


_KINDS: dict[str, Callable[[Any], bool]] = {
    "step": is_size,
    "config": lambda value: _is_table(value, is_object),
    "images_per_step": lambda value: is_size(value) and value > 0,
    "images": is_size,
    "window": _is_window,
    "skipped": lambda value: _is_table(value, _is_text),
    "versions": lambda value: _is_table(value, _is_text),
}


def damaged(path: Path, reason: object) -> WeightsError:
    """Return the error for a checkpoint that cannot be read."""
    return WeightsError(f"{path} is not a complete checkpoint ({reason}); delete it to continue from the one before")


def tidy(out: Path) -> None:
    """Remove what a killed run left half-written or half-removed, in ``out`` and beside it."""
    out = out.absolute()
    beside = re.compile(rf"\.{re.escape(out.name[:100])}{_STAGED}")
    for folder, name in ((out.parent, beside), (out, _LEFT), (out / FOLDER, _LEFT), (out / "pictures", _LEFT)):
        for path in [path for path in folder.glob("*.part") if name.fullmatch(path.name)]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_room(out: Path, model: Learner, tensors: dict[str, Tensor], keep: int) -> None:
    """Raise ``OutputError`` unless the disk has room for all checkpoints that will lie there at once."""
    size = sum(t.numel() * t.element_size() for t in [*tensors.values(), *model.state_dict().values()])
    missing = max(1, keep + 1 - len(list_checkpoints(out)))
    path = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(path).free
    if free < missing * size:
        raise OutputError(
            f"{path} has {free / 1e9:.1f} GB free; {count(missing, 'checkpoint')} of {size / 1e9:.2f} GB each need "
            "more: make room, lower save.keep, or choose another --out"
        )


def check_same_run(facts: Facts, config: Configuration, images_per_step: int, images: int, path: Path) -> None:
    """Raise ``ConfigError`` naming the first setting that would change the numbers of the run that ``facts`` is of.

    ``images`` is how many there are in all. A training of another kind is refused first.
    """
    asked = config.to_json()
    held, wanted = _command(facts.config), _command(asked)
    if held != wanted:
        raise ConfigError(f"{path} holds a training of `{held}`, not of `{wanted}`: give another --out")
    # With as many images a step as before, a batch only shares them out among processes.
    free = FREE | {"optim.batch"} if images_per_step == facts.images_per_step else FREE
    defaults = type(config)().to_json()  # of settings that came after the checkpoint was written
    for name in asked:
        if name in ("save", "warmup"):
            continue  # neither changes a step that is still to come
        for key in sorted(asked[name].keys() | facts.config.get(name, {}).keys()):
            before = facts.config.get(name, {}).get(key, defaults[name].get(key))
            now = asked[name].get(key)
            of_default = all(value in _DEFAULTS.get(f"{name}.{key}", ()) for value in (before, now))
            if before != now and not of_default and f"{name}.{key}" not in free:
                raise ConfigError(
                    f"{path} was trained with {name} {key} = {before}, now it is {now}: "
                    "resume with the same configuration, or start over in another --out"
                )
    if images_per_step != facts.images_per_step:
        raise ConfigError(
            f"{path} was trained with {count(facts.images_per_step, 'image')} a step, now there are {images_per_step}: "
            f"choose optim.batch so that optim.batch * optim.accumulate * processes is {facts.images_per_step} again"
        )
    if facts.images not in (0, images):
        raise ConfigError(
            f"{path} was trained on {count(facts.images, 'image')}, now --data holds {images}: which image is seen "
            "when would change; give the same images, or start over in another --out"
        )


def _command(tables: Mapping[str, Any]) -> str:
    return next((command for table, command in _COMMANDS.items() if table in tables), "another program")


def versions() -> dict[str, str]:
    """Return what decides the last digits: libraries, the processor, its instruction set, how many threads share a sum.

    MKL and oneDNN choose among kernels by the processor's model too, and Pillow resizes what is read.
    """
    from importlib.metadata import version

    optional = [name for name in ("timm", "lpips", "torchvision") if find_spec(name)]
    cpu = describe_cpu()
    return {
        "torch": torch.__version__,
        **{name: version(name) for name in ("coda-deploy", "diffusers", "peft", "numpy", "pillow", *optional)},
        "processor": cpu["model"] or cpu["machine"],
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def changes(facts: Facts) -> str:
    """Return which of ``versions`` are others than when ``facts`` were written: "threads was 8, now 2"; or ""."""
    now = versions()
    changed = [name for name, before in facts.versions.items() if before != now.get(name, before)]
    return ", ".join(f"{name} was {facts.versions[name]}, now {now[name]}" for name in changed)
