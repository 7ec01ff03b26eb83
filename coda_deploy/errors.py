"""The errors of training, evaluation and importing, under the root that `coda_runtime.errors` draws.

CodaError
├── ConfigError       a tokenizer's or a training's configuration cannot be used
│   └── ModuleNeededError   a tokenizer is of a VAE of its author's own, and no module was given
├── WeightsError      weights are missing, damaged, or not those that their configuration asks for
├── DataError         the images of a run cannot be used
├── DivergedError     a loss, a gradient or a weight became NaN or infinite
└── StoppedError      a signal ended the training

Nothing here needs PyTorch.
"""

from __future__ import annotations

import signal

from coda_runtime.errors import CodaError

__all__ = ["ConfigError", "DataError", "DivergedError", "ModuleNeededError", "StoppedError", "WeightsError"]

# A large batch's names would bury the message.
_MAX_NAMES = 64


class DataError(CodaError):
    """The images of a run cannot be used: nothing is there, it is of an unknown kind, or it is damaged."""


class WeightsError(CodaError):
    """A tokenizer's or checkpoint's weights are missing, damaged, or not those that its configuration asks for."""


class ConfigError(CodaError):
    """A tokenizer's configuration contradicts itself, or is not one this version reads."""


class ModuleNeededError(ConfigError):
    """A tokenizer is of a VAE of its author's own, which has to be given."""


class StoppedError(CodaError):
    """A signal ended the training; ``signal`` is its number, ``saved`` says what is kept."""

    def __init__(self, number: int, saved: str) -> None:
        self.signal = number
        super().__init__(f"{signal.Signals(number).name}: {saved}; to continue, repeat the command with --resume")


class DivergedError(CodaError):
    """A loss, a gradient or a weight became NaN or infinite."""

    @classmethod
    def at(cls, step: int, term: str, names: list[str], saved: int | None) -> DivergedError:
        """Make the error from the ``names`` of the batch and the last checkpoint's step, None where there is none."""
        listed = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
        kept = "there is no checkpoint yet" if saved is None else f"the last checkpoint is from step {saved}"
        return cls(
            f"{term} is not finite at step {step}, on the images {listed}; {kept}: "
            "start over with a lower optim.lr or optim.clip, with optim.precision=fp32, or without these images"
        )
