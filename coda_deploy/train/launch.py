"""The processes of a training, as torchrun or ``accelerate launch`` start them, and where its figures are sent."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin

from coda_deploy import distributed
from coda_deploy.errors import ConfigError
from coda_deploy.train.sections import Configuration
from coda_runtime.errors import MissingDependencyError

# What brings each tracker's package.
_EXTRAS = {"tensorboard": "train", "wandb": "wandb"}
_PLAIN = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def make_accelerator(config: Configuration, out: Path) -> Accelerator:
    """Join the other processes where there are; the numbers are ours alone, whatever ``accelerate config`` has set.

    Raises ``MissingDependencyError`` for a tracker's package, ``ConfigError`` for a launcher that shards the model.
    """
    tracking = config.save.tracking
    if tracking != "none" and find_spec(tracking) is None:
        # accelerate would only warn, and track nothing.
        raise MissingDependencyError(
            f"save.tracking={tracking} needs the package {tracking}", tracking, extra=_EXTRAS[tracking]
        )
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=None if tracking == "none" else tracking,
        project_dir=str(out),
        # Both would otherwise be read from the launcher's environment.
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    if accelerator.distributed_type not in _PLAIN:
        raise ConfigError(
            f"the launcher asks for {accelerator.distributed_type.value}, and the model is trained whole on every "
            "process: use torchrun, or accelerate launch --multi_gpu"
        )
    return accelerator


def start_tracking(config: Configuration, accelerator: Accelerator) -> None:
    """Open the tracker, if there is one, with the configuration."""
    if config.save.tracking != "none":
        flat = {f"{s}.{k}": str(v) for s, table in config.to_json().items() for k, v in table.items()}
        accelerator.init_trackers(config.save.project, config=flat)


def check_agreement(checkpoint: str, out: Path) -> None:
    """Raise ``ConfigError`` unless every process has found the same newest ``checkpoint``."""
    found = distributed.gather_names([checkpoint])
    if len(set(found)) > 1:
        raise ConfigError(
            f"the processes see different checkpoints in {out} ({', '.join(name or 'none' for name in found)}): "
            "put --out on storage that all machines share"
        )
