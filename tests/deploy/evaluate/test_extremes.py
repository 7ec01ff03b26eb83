from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coda_deploy.evaluate.extremes import Extremes, Shown

PIXELS = np.zeros((2, 2, 3), np.uint8)


def shown(name: str, psnr: float) -> Shown:
    return Shown(name, psnr, PIXELS, PIXELS, None)


@given(st.integers(0, 4), st.lists(st.floats(0, 60) | st.just(float("inf")) | st.sampled_from([20.0, 30.0])))
def test_they_are_the_ends_of_the_sorted_list(keep: int, values: list[float]) -> None:
    extremes = Extremes(keep)
    for index, psnr in enumerate(values):
        extremes.add(shown(str(index), psnr))
    worst, best = extremes.split()
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    low, high = min(keep, (len(order) + 1) // 2), min(keep, len(order) // 2)
    assert [int(image.name) for image in worst] == order[:low]
    assert [int(image.name) for image in best] == order[::-1][:high]


def test_kept_images_do_not_hold_their_batch() -> None:
    batch = np.zeros((50, 4, 4, 3), np.uint8)
    extremes = Extremes(1)
    for index, image in enumerate(batch):
        extremes.add(Shown(str(index), float(index), image, image, image))
    for image in [of for end in extremes.split() for of in end]:
        assert all(pixels is not None and pixels.base is None for pixels in image[2:])
