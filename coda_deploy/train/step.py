"""One optimiser step: micro-batches forward and backward, the discriminator's turn, clipping, both updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coda_deploy.data import TrainBatch
from coda_deploy.tokenizer import CodaTokenizer, TokenizerOutput
from coda_deploy.tokenizer.model import PREFIX_STRIDE
from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.objective import Objective, View, last_lora_weight
from coda_deploy.train.prefix import draw_prefix, prefix_loss
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.sections import Configuration
from coda_deploy.train.state import RunState

Metrics = dict[str, Tensor]


class ForwardResult(NamedTuple):
    """Decoded images [B, 3, H, W], and the model's own terms: a weight and a scalar by name."""

    reconstruction: Tensor
    terms: dict[str, tuple[float, Tensor]]


class BaseStepper(ABC):
    """Binds the modules (wrapped for many processes where there are) and runs steps."""

    def __init__(
        self, config: Configuration, accelerator: Accelerator, state: RunState, objective: Objective, schedule: Schedule
    ) -> None:
        self.config, self.state = config, state
        self._accelerator, self._objective, self._schedule = accelerator, objective, schedule
        self._last = self.last_weight()
        self.model: nn.Module = accelerator.prepare(state.model)
        self._critic: nn.Module | None = None if objective.critic is None else accelerator.prepare(objective.critic)

    @abstractmethod
    def last_weight(self) -> Tensor | None:
        """Return where the gradients of the image terms and of the discriminator are compared; None: at the image."""

    @abstractmethod
    def rates(self, factor: float) -> tuple[float, float, float]:
        """Return the learning rates of the model, its quantizer and the discriminator at ``factor`` of the schedule."""

    @abstractmethod
    def forward(self, images: Tensor, seed: int) -> ForwardResult:
        """Run one pass of images float [B, 3, H, W] in [-1, 1]; what is random in it follows from ``seed``."""

    def run(self, step: int, batches: list[TrainBatch]) -> Metrics:
        """Run step ``step`` on its micro-batches: each term's mean over them, on this process alone, detached.

        With them the gradients' norms before clipping. A term or norm that is not finite has spoiled the weights.
        """
        self.state.set_learning_rates(*self.rates(self._schedule.learning_rate(step)))
        sums: Metrics = {}
        for micro, batch in enumerate(batches):
            with ExitStack() as stack:
                if micro < len(batches) - 1:
                    for module in (self.model, self._critic):
                        if module is not None:
                            stack.enter_context(self._accelerator.no_sync(module))
                terms = self._micro(step, micro, batch, len(batches))
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        norms = self._update()
        self.state.ema.update(self._schedule.ema_decay(step))
        return {**sums, **norms}

    def _micro(self, step: int, micro: int, batch: TrainBatch, parts: int) -> Metrics:
        config = self.config
        images = from_pixels(batch.images.to(self._accelerator.device, non_blocking=True))
        images = images.contiguous(memory_format=torch.channels_last)
        view = View(
            # Another look for every micro-step, the same again when a run is resumed.
            seed=((config.optim.seed * 1_000_003 + step) * 1_009 + micro) % 2**63,
            blur=self._schedule.blur(step),
            probability=config.loss.augment,
        )
        with self._autocast():
            out = self.forward(images, view.seed)
            image_terms = self._objective.image_terms(
                images, out.reconstruction, self._last, self._schedule.gan_weight(step), view
            )
        total = image_terms.total
        for weight, term in out.terms.values():
            total = total + weight * term
        self._accelerator.backward(total / parts)
        terms = {**image_terms.terms, **{name: term for name, (_, term) in out.terms.items()}, "total": total}
        if self._critic is not None:
            with self._autocast():
                terms["critic"] = self._critic(images, out.reconstruction.detach(), view)
            self._accelerator.backward(terms["critic"] / parts)
        return terms

    def _update(self) -> Metrics:
        norms: Metrics = {}
        for name, optimizer in (
            ("gradient", self.state.optimizer),
            ("critic gradient", self.state.heads_optimizer),
        ):
            if optimizer is not None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                norms[name] = torch.nn.utils.clip_grad_norm_(parameters, self.config.optim.clip).detach()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return norms

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=self.config.optim.bf16)


class Stepper(BaseStepper):
    """Steps of a tokenizer; the discriminator's weight is found at the decoder's last LoRA layer."""

    config: TrainConfig

    def last_weight(self) -> Tensor | None:
        """Return ``up`` of that layer, or None without LoRA."""
        return last_lora_weight(self.state.model)

    def rates(self, factor: float) -> tuple[float, float, float]:
        """Return the rates; the quantizer has its own."""
        optim = self.config.optim
        return optim.lr * factor, optim.lr_quantizer * factor, optim.lr * factor

    def forward(self, images: Tensor, seed: int) -> ForwardResult:
        """Run on the posterior's mode; which prefix is looked at follows from ``seed``."""
        loss, shapes = self.config.loss, cast(CodaTokenizer, self.state.model).quantizer.shapes
        prefix_scales = draw_prefix(shapes, seed) if loss.prefix else 0
        out: TokenizerOutput = self.model(images, prefix_scales)
        ids = out.ids.flatten().long()
        self.state.seen.index_add_(0, ids, torch.ones_like(ids))  # torch.bincount waits for the GPU
        terms = {"vq": (loss.vq, out.vq_loss), "entropy": (loss.entropy, out.entropy_loss)}
        if out.prefix is not None:
            shown = prefix_loss(out.prefix, images[::PREFIX_STRIDE], shapes[prefix_scales - 1])
            terms["prefix"] = (loss.prefix, shown)
        return ForwardResult(out.reconstruction, terms)
