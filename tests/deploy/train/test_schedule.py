"""What changes as a training goes on, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from coda_deploy.train.config import LossSection, OptimSection
from coda_deploy.train.schedule import Schedule, cosine


def test_a_cosine() -> None:
    assert cosine(0, 100) == 1
    assert cosine(50, 100) == pytest.approx(0.5)
    assert cosine(25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert cosine(100, 100) == cosine(120, 100) == 0
    assert cosine(0, 100, 0.2) == 1
    assert cosine(50, 100, 0.2) == pytest.approx(0.6)
    assert cosine(100, 100, 0.2) == 0.2


def test_learning_rates() -> None:
    plain = Schedule(100, OptimSection(), LossSection())
    assert [plain.learning_rate(step) for step in (0, 50)] == [1, pytest.approx(0.5)]
    assert 0 < plain.learning_rate(99) < 1e-3
    warm = Schedule(100, OptimSection(lr_warmup=4, final_lr=0.5), LossSection())
    for step, share in enumerate((0.2, 0.4, 0.6, 0.8, 1.0, 1.0)):
        assert warm.learning_rate(step) == pytest.approx(share * cosine(step, 100, 0.5))


def test_the_discriminators_weight() -> None:
    schedule = Schedule(100, OptimSection(), LossSection(gan=0.4, gan_warmup=0.5))
    assert [schedule.gan_weight(step) for step in (0, 25, 50, 99)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert Schedule(100, OptimSection(), LossSection(gan=0.4, gan_warmup=0)).gan_weight(0) == 0.4
    assert Schedule(100, OptimSection(), LossSection()).gan_weight(99) == pytest.approx(0.99)


def test_blur() -> None:
    schedule = Schedule(100, OptimSection(), LossSection(blur_fade=0.2))
    assert [schedule.blur(step) for step in (0, 5, 20, 99)] == pytest.approx([1, 0.75, 0, 0])
    assert Schedule(100, OptimSection(), LossSection(blur_fade=0)).blur(0) == 0


def test_averages_begin_late_and_grow_longer() -> None:
    schedule = Schedule(1000, OptimSection(ema=0.99, ema_start=0.4), LossSection())
    assert schedule.ema_decay(0) == schedule.ema_decay(399) == 0
    # (step // 2 + 1) / (step // 2 + 10)
    assert schedule.ema_decay(400) == pytest.approx(201 / 210)
    assert schedule.ema_decay(401) == pytest.approx(201 / 210)
    assert schedule.ema_decay(1000 * 1000) == 0.99
    assert Schedule(10, OptimSection(ema_start=0), LossSection()).ema_decay(0) == pytest.approx(0.1)
