"""Everything a training has learned so far, as named tensors: what a checkpoint keeps and a resumed run loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from coda_deploy.errors import WeightsError
from coda_deploy.tokenizer import CodaTokenizer
from coda_deploy.train.discriminator import Discriminator
from coda_deploy.train.ema import Ema
from coda_deploy.train.learner import Learner
from coda_deploy.train.sections import AdamSection

Named = list[tuple[str, nn.Parameter]]
Take = Callable[[str, Tensor], Tensor]
# AdamW's state of one parameter.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class RunState:
    """Model, averages, discriminator heads, both optimizers, and the codes seen since the last log line."""

    def __init__(self, model: Learner, heads: Discriminator | None, optim: AdamSection) -> None:
        self.model, self.heads = model, heads
        self.ema = Ema(model.trainable())
        self.optimizer = _adamw(model.trainable(), optim.weight_decay, optim)
        self.heads_optimizer = (
            None if heads is None else _adamw(list(heads.named_parameters()), optim.weight_decay_discriminator, optim)
        )
        codes = model.spec.vocab_size if isinstance(model, CodaTokenizer) else 0
        self.seen = torch.zeros(codes, dtype=torch.int64, device=next(model.parameters()).device)

    def set_learning_rates(self, model: float, quantizer: float, heads: float) -> None:
        """Set the learning rates of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = quantizer if group["kind"] == "quantizer" else model
        if self.heads_optimizer is not None:
            self.heads_optimizer.param_groups[0]["lr"] = heads

    def restart_averages(self) -> None:
        """Take the parameters as they are for the averages: the warm-up has changed them."""
        self.ema = Ema(self.model.trainable())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, not copied."""
        found: dict[str, Tensor] = {"seen": self.seen}
        found |= {f"raw.{name}": parameter.detach() for name, parameter in self.model.trainable()}
        found |= {f"ema.{name}": tensor for name, tensor in self.ema.averages.items()}
        found |= _moments("optimizer.", self.model.trainable(), self.optimizer)
        if self.heads is not None and self.heads_optimizer is not None:
            found |= {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
            found |= _moments("heads_optimizer.", list(self.heads.named_parameters()), self.heads_optimizer)
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take over what ``tensors`` gave. Raises ``WeightsError`` naming a key that is missing or misshapen."""
        left = dict(tensors)

        def take(key: str, like: Tensor) -> Tensor:
            if key not in left:
                raise WeightsError(f"{source} has no {key!r}: is it a checkpoint of this configuration, and whole?")
            found = left.pop(key)
            if found.shape != like.shape:
                raise WeightsError(
                    f"{source}: {key!r} has shape {list(found.shape)}, expected {list(like.shape)}: "
                    "it was trained with another configuration"
                )
            # In the memory layout of `like`, in which the run that wrote it computed.
            return torch.empty_like(like).copy_(found)

        self.seen.copy_(take("seen", self.seen))
        for name, parameter in self.model.trainable():
            parameter.copy_(take(f"raw.{name}", parameter))
            self.ema.averages[name] = take(f"ema.{name}", parameter)
            _load_moments("optimizer.", name, parameter, self.optimizer, take)
        if self.heads is not None and self.heads_optimizer is not None:
            own = self.heads.state_dict()
            self.heads.load_state_dict({name: take(f"heads.{name}", tensor) for name, tensor in own.items()})
            for name, parameter in self.heads.named_parameters():
                _load_moments("heads_optimizer.", name, parameter, self.heads_optimizer, take)
        if left:
            raise WeightsError(f"{source} has {len(left)} unexpected keys, first {next(iter(left))!r}")


def own_memory(*modules: nn.Module) -> None:
    """Give every parameter and buffer memory of its own, in place, as the allocator aligns it.

    What safetensors loads are views into one buffer, which begin anywhere in a cache line. On some processors MKL's
    results depend on that, and a resumed run, whose views begin elsewhere, would part from an uninterrupted one.
    """
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()


def _adamw(named: Named, weight_decay: float, optim: AdamSection) -> torch.optim.AdamW:
    groups = {"quantizer": [p for n, p in named if n.startswith("quantizer.")]}
    groups["other"] = [p for n, p in named if not n.startswith("quantizer.")]
    return torch.optim.AdamW(
        [{"params": members, "kind": kind} for kind, members in groups.items() if members],
        lr=optim.lr,
        betas=(optim.betas[0], optim.betas[1]),
        weight_decay=weight_decay,
    )


def _moments(prefix: str, named: Named, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in named:
        zero = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
        state = optimizer.state.get(parameter) or {**zero, "exp_avg_sq": zero["exp_avg"]}
        found |= {f"{prefix}{name}.{key}": cast(Tensor, state[key]).detach() for key in _MOMENTS}
    return found


def _load_moments(
    prefix: str, name: str, parameter: nn.Parameter, optimizer: torch.optim.Optimizer, take: Take
) -> None:
    like = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
    optimizer.state[parameter] = {key: take(f"{prefix}{name}.{key}", like[key]) for key in _MOMENTS}
