"""Engines of several batch profiles: each batch runs in the one that fits best, with its own contexts and memory."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coda_runtime.backends.base import LoadOptions, Session, profiles_of
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.errors import BackendError, ClosedError, DeviceMemoryError, InputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.profiles import Batch, choose_profile
from tests.runtime import tiny
from tests.runtime.backends import engines
from tests.runtime.backends.cuda import fake_trt
from tests.runtime.backends.cuda.driver.controls import Watch

pytestmark = pytest.mark.driver

TWO: tuple[Batch, Batch] = ((1, 1, 1), (3, 4, 6))


@pytest.fixture(scope="module")
def decoder(sealed: Path) -> Session:
    """The decoder on onnxruntime."""
    artifact = tiny.describe(sealed, engines.FILES["decoder"])
    return OnnxRuntimeBackend().load(Bundle.open(sealed), artifact, LoadOptions("cpu", threads=1))


def memory_of(profile: Batch) -> int:
    """Bytes that an executor of the tiny decoder's engine takes: ids in, images out, scratch memory."""
    image = tiny.TOKENS * 4 + tiny.SPEC.image_size**2 * 3
    return profile[2] * (image + fake_trt.SCRATCH)


def test_what_a_session_says_of_itself(tmp_path: Path, sealed: Path) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    assert (session.profiles, session.batch) == (TWO, (1, 4, 6))
    assert profiles_of(session) == TWO
    assert session.graphs == {1: (), 3: (), 4: (), 6: ()}
    session.close()


@pytest.mark.parametrize("rtx", [False, True])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    profiles=st.lists(st.sampled_from([(1, 1, 1), (1, 2, 4), (2, 4, 6), (3, 4, 6)]), min_size=1, unique=True),
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    on_device=st.booleans(),
)
def test_each_batch_runs_in_its_profile_and_gives_the_same_as_onnxruntime(
    tmp_path: Path,
    sealed: Path,
    decoder: Session,
    rtx: bool,
    profiles: list[Batch],
    counts: list[int],
    on_device: bool,
) -> None:
    trt = fake_trt.make(rtx=rtx)
    session = engines.session(tmp_path, sealed, "decoder", *profiles, trt=trt)
    expected, results = [], []
    for seed, count in enumerate(counts):
        batch, index = engines.ids(count, seed), choose_profile(profiles, count)
        if index is None:
            with pytest.raises(InputError, match=f"got a batch of {count}; it was built for batches"):
                session.run(batch)
            continue
        expected.append((index, count))
        results.append((batch, session.run_on_device(batch).numpy() if on_device else session.run(batch)))
    for batch, result in results:
        np.testing.assert_array_equal(result, decoder.run(batch))
    assert trt.ran_in == expected
    if len(profiles) == 1:
        assert trt.switches == 0, "one profile needs no choosing"
    session.close()


def test_a_batch_between_the_profiles_names_them(tmp_path: Path, sealed: Path) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    told = (
        r"decoder.engine got a batch of 2; it was built for batches of 1 or from 3 to 6, in the profiles 1,1,1 3,4,6: "
        r"use such batches, or build it with a profile more: coda build BUNDLE --engine tensorrt --batch MIN,OPT,MAX "
    )
    for call in (session.run, session.run_on_device):
        with pytest.raises(InputError, match=told):
            call(engines.ids(2))
    session.close()


def test_a_profile_takes_memory_once_it_is_used(tmp_path: Path, sealed: Path, gpu: Watch) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    before = gpu.pooled
    small = session._pools[0]
    with session._executor(1):
        assert gpu.pooled - before == memory_of(TWO[0])
        assert (len(small), session.executors) == (1, 1)
    with session._executor(4):
        assert gpu.pooled - before == memory_of(TWO[0]) + memory_of(TWO[1])
    assert session.executors == 2
    session.close()


def test_threads_in_different_profiles_do_not_wait_for_each_other(
    tmp_path: Path, sealed: Path, decoder: Session
) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO, max_executors=1)
    assert session.max_executors == 2
    done = threading.Event()

    def run_large() -> None:
        np.testing.assert_array_equal(session.run(engines.ids(4)), decoder.run(engines.ids(4)))
        done.set()

    with session._executor(1):
        thread = threading.Thread(target=run_large)
        thread.start()
        assert done.wait(10), "the other profile's executor is free"
        thread.join()
    session.close()


def test_a_graph_for_each_size_of_each_profile(tmp_path: Path, sealed: Path, gpu: Watch) -> None:
    trt = fake_trt.make()
    session = engines.session(tmp_path, sealed, "decoder", *TWO, trt=trt)
    for count in (1, 4, 3, 6, 5) * 3:
        session.run(engines.ids(count))
    assert session.graphs == dict.fromkeys((1, 3, 4, 6), ("recorded",))
    assert len(gpu.graphs) == 4
    assert trt.contexts == trt.switches == 5, "one context for each size, and one for all others"
    session.close()


def test_without_memory_for_one_profile_the_other_runs_on(
    tmp_path: Path, sealed: Path, gpu: Watch, decoder: Session
) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    session.run(engines.ids(1))
    gpu.leave(memory_of(TWO[1]) - 1)
    told = r"holds memory for batches of 6 in the profile 3,4,6, whatever the batch: build it with a smaller MAX"
    with pytest.raises(DeviceMemoryError, match=told):
        session.run(engines.ids(3))
    np.testing.assert_array_equal(session.run(engines.ids(1)), decoder.run(engines.ids(1)))
    session.close()


def test_a_small_batch_takes_the_memory_that_idle_executors_of_large_ones_hold(
    tmp_path: Path, sealed: Path, gpu: Watch, decoder: Session
) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    large = session._pools[1]
    with session._executor(4), session._executor(4):  # two threads
        assert len(large) == 2
    session.run(engines.ids(4))
    gpu.leave()  # and whatever else the GPU holds
    for count in (1, 4, 1):
        np.testing.assert_array_equal(session.run(engines.ids(count)), decoder.run(engines.ids(count)))
    assert (len(session._pools[0]), len(large)) == (1, 1), "no more was given up than was needed"
    session.close()


def test_memory_of_executors_that_run_is_not_given_up(tmp_path: Path, sealed: Path, gpu: Watch) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    with session._executor(4):
        gpu.leave()
        with pytest.raises(DeviceMemoryError, match="in the profile 1,1,1"), session._executor(1):
            pass
    session.close()


def test_a_profile_that_tensorrt_does_not_set(tmp_path: Path, sealed: Path) -> None:
    trt = fake_trt.make()
    session = engines.session(tmp_path, sealed, "decoder", *TWO, trt=trt)
    trt.fail_profile = "the profile is in use"
    with pytest.raises(BackendError, match=r"for decoder\.engine in its profile 1 \(the profile is in use\)"):
        session.run(engines.ids(4))
    trt.fail_profile = ""
    assert len(session.run(engines.ids(4))) == 4
    session.close()


def test_closed(tmp_path: Path, sealed: Path, gpu: Watch) -> None:
    session = engines.session(tmp_path, sealed, "decoder", *TWO)
    for count in (1, 4):
        session.run(engines.ids(count))
    held = gpu.pooled
    session.close()
    assert held - gpu.pooled == memory_of(TWO[0]) + memory_of(TWO[1])
    for count in (1, 4):
        with pytest.raises(ClosedError, match="load the bundle again"):
            session.run(engines.ids(count))
