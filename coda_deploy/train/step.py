"""One optimiser step: micro-batches forward and backward, the discriminator's turn, clipping, both updates."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coda_deploy.data import TrainBatch
from coda_deploy.tokenizer import TokenizerOutput
from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.objective import Objective, View, last_lora_weight
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.state import RunState

Figures = dict[str, Tensor]


class Stepper:
    """Binds the modules (wrapped for many processes where there are) and runs steps."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, state: RunState, objective: Objective, schedule: Schedule
    ) -> None:
        self._config, self._accelerator, self._state = config, accelerator, state
        self._objective, self._schedule = objective, schedule
        self._last = last_lora_weight(state.tokenizer)
        self._model: nn.Module = accelerator.prepare(state.tokenizer)
        self._critic: nn.Module | None = None if objective.critic is None else accelerator.prepare(objective.critic)

    def run(self, step: int, batches: list[TrainBatch]) -> Figures:
        """Step number ``step`` on its micro-batches: each term's mean over them, on this process alone, detached.

        With them the gradients' norms before clipping. A term or norm that is not finite has spoiled the weights.
        """
        optim, state = self._config.optim, self._state
        factor = self._schedule.learning_rate(step)
        state.set_learning_rates(optim.lr * factor, optim.lr_quantizer * factor, optim.lr * factor)
        sums: Figures = {}
        for micro, batch in enumerate(batches):
            with ExitStack() as stack:
                if micro < len(batches) - 1:
                    for module in (self._model, self._critic):
                        if module is not None:
                            stack.enter_context(self._accelerator.no_sync(module))
                terms = self._micro(step, micro, batch, len(batches))
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        norms = self._update()
        state.ema.update(self._schedule.ema_decay(step))
        return {**sums, **norms}

    def _micro(self, step: int, micro: int, batch: TrainBatch, parts: int) -> Figures:
        config, device = self._config, self._accelerator.device
        images = from_pixels(batch.images.to(device, non_blocking=True))
        images = images.contiguous(memory_format=torch.channels_last)
        view = View(
            # Another look for every micro-step, the same again when a run is resumed.
            seed=((config.optim.seed * 1_000_003 + step) * 1_009 + micro) % 2**63,
            blur=self._schedule.blur(step),
            probability=config.loss.augment,
        )
        with self._autocast():
            out: TokenizerOutput = self._model(images)
            picture = self._objective.picture(
                images, out.reconstruction, self._last, self._schedule.gan_weight(step), view
            )
        total = picture.total + config.loss.vq * out.vq_loss + config.loss.entropy * out.entropy_loss
        self._accelerator.backward(total / parts)
        terms = {**picture.terms, "vq": out.vq_loss, "entropy": out.entropy_loss, "total": total}
        if self._critic is not None:
            with self._autocast():
                terms["critic"] = self._critic(images, out.reconstruction.detach(), view)
            self._accelerator.backward(terms["critic"] / parts)
        self._state.seen += torch.bincount(out.ids.flatten(), minlength=len(self._state.seen))
        return terms

    def _update(self) -> Figures:
        norms: Figures = {}
        for name, optimizer in (
            ("gradient", self._state.optimizer),
            ("critic gradient", self._state.heads_optimizer),
        ):
            if optimizer is not None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                norms[name] = torch.nn.utils.clip_grad_norm_(parameters, self._config.optim.clip).detach()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return norms

    def _autocast(self) -> torch.autocast:
        bf16 = self._config.optim.precision == "bf16"
        return torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=bf16)
