"""What changes as a training goes on, as functions of the step alone, so that a resumed run needs no state for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coda_deploy.train.sections import AdamSection, ImageLossSection


@dataclass(frozen=True)
class Schedule:
    """Values at optimiser step ``step``, from 0 to ``total - 1``."""

    total: int
    optim: AdamSection
    loss: ImageLossSection

    def learning_rate(self, step: int) -> float:
        """Return the learning rates' factor: a linear warm-up, then a cosine from 1 to ``final_lr``."""
        return cosine(step, self.total, self.optim.final_lr) * min(1.0, (step + 1) / (self.optim.lr_warmup + 1))

    def gan_weight(self, step: int) -> float:
        """Return the discriminator's weight before the adaptive factor: it grows linearly, up to ``gan_warmup``."""
        return self.loss.gan * min(1.0, self._share(step, self.loss.gan_warmup))

    def blur(self, step: int) -> float:
        """Return how blurred the discriminator sees its images, from 1 down to 0 at ``blur_fade``."""
        return max(0.0, 1.0 - self._share(step, self.loss.blur_fade))

    def ema_decay(self, step: int) -> float:
        """Return the share of the average that is kept; 0, a copy, before ``ema_start``. The reference's warm-up."""
        if step < self.optim.ema_start * self.total:
            return 0.0
        return min(self.optim.ema, (step // 2 + 1) / (step // 2 + 10))

    def _share(self, step: int, of: float) -> float:
        return 1.0 if of == 0 else step / (of * self.total)


def cosine(step: int, total: int, final: float = 0.0) -> float:
    """Return a cosine that falls from 1 at step 0 to ``final`` at ``total``."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
