"""The rules of the stand-in are the driver's: the same calls get the same answers on a GPU, where there is one."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

driver = pytest.importorskip("cuda.bindings.driver")
GLOBAL, THREAD, RELAXED = 0, 1, 2
BLOCKING, NON_BLOCKING = 0, 1
LEGACY = 1


@pytest.fixture(
    autouse=True,
    params=[pytest.param(True, marks=pytest.mark.driver), pytest.param(False, marks=pytest.mark.gpu)],
    ids=["stand-in", "GPU"],
)
def on(request: pytest.FixtureRequest) -> Iterator[None]:
    """A current context; on the stand-in what is refused here is no fault of the test's."""
    stand_in = request.getfixturevalue("driver") if request.param else None
    ok(driver.cuInit(0))
    context = ok(driver.cuDevicePrimaryCtxRetain(0))
    ok(driver.cuCtxPushCurrent(context))
    yield
    ok(driver.cuCtxPopCurrent())
    ok(driver.cuDevicePrimaryCtxRelease(0))
    if stand_in is not None:
        stand_in.breaches()


def ok(answer: tuple[Any, ...]) -> Any:
    assert answer[0] == driver.CUresult.CUDA_SUCCESS, answer[0].name
    return answer[1] if len(answer) > 1 else None


def name(answer: tuple[Any, ...]) -> str:
    return str(answer[0].name.removeprefix("CUDA_ERROR_").removeprefix("CUDA_"))


def stream(flags: int = NON_BLOCKING) -> Any:
    return ok(driver.cuStreamCreate(flags))


def event() -> Any:
    return ok(driver.cuEventCreate(2))


def elsewhere(call: Callable[[], Any]) -> Any:
    """Call in another thread, with the same context."""
    context, found = ok(driver.cuCtxGetCurrent()), []

    def work() -> None:
        ok(driver.cuCtxSetCurrent(context))
        found.append(call())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def begin(of: Any, mode: int = GLOBAL) -> None:
    ok(driver.cuStreamBeginCapture(of, driver.CUstreamCaptureMode(mode)))


UNSAFE: dict[str, Callable[[], Callable[[], Any]]] = {
    "lock pages": lambda: lambda: driver.cuMemAllocHost(64),
    "unlock pages": lambda: (lambda pages: lambda: driver.cuMemFreeHost(pages))(ok(driver.cuMemAllocHost(64))),
    "allocate": lambda: lambda: driver.cuMemAlloc(64),
    "ask for an event": lambda: (lambda asked: lambda: driver.cuEventQuery(asked))(recorded()),
}


def recorded() -> Any:
    made = event()
    ok(driver.cuEventRecord(made, stream()))
    ok(driver.cuEventSynchronize(made))
    return made


@pytest.mark.parametrize("what", UNSAFE)
@pytest.mark.parametrize(
    ("mode", "other_thread", "breaks"),
    [
        (GLOBAL, False, True), (GLOBAL, True, True), (THREAD, False, True), (THREAD, True, False),
        (RELAXED, False, False), (RELAXED, True, False),
    ],
)  # fmt: skip
def test_what_a_capture_forbids(what: str, mode: int, other_thread: bool, breaks: bool) -> None:
    call, captured = UNSAFE[what](), stream()
    begin(captured, mode)
    found = elsewhere(call) if other_thread else call()
    assert name(found) == ("STREAM_CAPTURE_UNSUPPORTED" if breaks else "SUCCESS")
    assert name(driver.cuStreamEndCapture(captured)) == ("STREAM_CAPTURE_INVALIDATED" if breaks else "SUCCESS")


@pytest.mark.parametrize("what", UNSAFE)
@pytest.mark.parametrize("other_thread", [False, True])
def test_a_relaxed_thread_is_forbidden_nothing(what: str, other_thread: bool) -> None:
    call, captured = UNSAFE[what](), stream()

    def relaxed() -> Any:
        before = ok(driver.cuThreadExchangeStreamCaptureMode(driver.CUstreamCaptureMode(RELAXED)))
        assert before == driver.CUstreamCaptureMode(GLOBAL)
        try:
            return call()
        finally:
            ok(driver.cuThreadExchangeStreamCaptureMode(before))

    begin(captured)
    ok(elsewhere(relaxed) if other_thread else relaxed())
    ok(driver.cuStreamEndCapture(captured))


@pytest.mark.parametrize(("flags", "breaks"), [(BLOCKING, True), (NON_BLOCKING, False)])
def test_the_legacy_stream_would_wait_for_a_blocking_one(flags: int, breaks: bool) -> None:
    captured, made = stream(flags), event()
    begin(captured, RELAXED)
    asked = driver.cuStreamIsCapturing(LEGACY)
    assert name(asked) == ("STREAM_CAPTURE_IMPLICIT" if breaks else "SUCCESS")
    assert ok(driver.cuStreamIsCapturing(captured)) == driver.CUstreamCaptureStatus(1), "to ask does no harm"
    assert name(driver.cuEventRecord(made, LEGACY)) == ("STREAM_CAPTURE_IMPLICIT" if breaks else "SUCCESS")
    assert name(driver.cuStreamEndCapture(captured)) == ("STREAM_CAPTURE_INVALIDATED" if breaks else "SUCCESS")


def test_a_captured_stream_waits_for_nothing_outside() -> None:
    captured, outside = stream(), recorded()
    begin(captured)
    assert name(driver.cuStreamWaitEvent(captured, outside, 0)) == "STREAM_CAPTURE_ISOLATION"
    assert name(driver.cuStreamEndCapture(captured)) == "STREAM_CAPTURE_INVALIDATED"


def test_an_event_of_a_capture() -> None:
    captured, made = stream(), event()
    begin(captured)
    ok(driver.cuEventRecord(made, captured))
    assert name(driver.cuEventQuery(made)) == "CAPTURED_EVENT"
    assert name(driver.cuStreamEndCapture(captured)) == "STREAM_CAPTURE_INVALIDATED", "to ask breaks it off"


def test_another_stream_becomes_part_of_a_capture() -> None:
    captured, other, made, back = stream(), stream(), event(), event()
    begin(captured)
    ok(driver.cuEventRecord(made, captured))
    ok(driver.cuStreamWaitEvent(other, made, 0))
    assert ok(driver.cuStreamIsCapturing(other)) == driver.CUstreamCaptureStatus(1)
    ok(driver.cuEventRecord(back, other))
    ok(driver.cuStreamWaitEvent(captured, back, 0))
    ok(driver.cuStreamEndCapture(captured))
    assert ok(driver.cuStreamIsCapturing(other)) == driver.CUstreamCaptureStatus(0)


def test_who_may_end_a_capture() -> None:
    captured = stream()
    begin(captured, THREAD)
    assert name(elsewhere(lambda: driver.cuStreamEndCapture(captured))) == "STREAM_CAPTURE_WRONG_THREAD"
    assert name(driver.cuStreamEndCapture(captured)) == "ILLEGAL_STATE", "the other thread has ended it"
    assert name(driver.cuStreamBeginCapture(LEGACY, driver.CUstreamCaptureMode(GLOBAL))) == "STREAM_CAPTURE_UNSUPPORTED"


def test_work_is_recorded_and_not_done() -> None:
    captured, target = stream(), ok(driver.cuMemAlloc(64))
    ok(driver.cuMemsetD8Async(target, 1, 64, captured))
    ok(driver.cuStreamSynchronize(captured))
    begin(captured)
    ok(driver.cuMemsetD8Async(target, 2, 64, captured))
    graph = ok(driver.cuStreamEndCapture(captured))
    parameters = driver.CUDA_GRAPH_INSTANTIATE_PARAMS()
    launched = ok(driver.cuGraphInstantiateWithParams(graph, parameters))
    assert read(target) == 1
    ok(driver.cuGraphLaunch(launched, captured))
    assert read(target, captured) == 2
    ok(driver.cuMemFree(target))


def read(address: Any, on: Any = None) -> int:
    """The first byte, read in the order of a stream."""
    on, pages = on or stream(), ok(driver.cuMemAllocHost(64))
    ok(driver.cuMemcpyAsync(int(pages), int(address), 64, on))
    ok(driver.cuStreamSynchronize(on))
    value = ctypes.c_uint8.from_address(int(pages)).value
    ok(driver.cuMemFreeHost(pages))
    return value


@pytest.mark.parametrize("keeps", [True, False])
def test_memory_of_the_pool_is_kept_from_others_up_to_its_threshold(keeps: bool) -> None:
    pool, on_stream, size = ok(driver.cuDeviceGetMemPool(0)), stream(), 32 << 20
    kept, reserved = driver.CUmemPool_attribute(4), driver.CUmemPool_attribute(5)
    before = ok(driver.cuMemPoolGetAttribute(pool, kept))
    ok(driver.cuMemPoolSetAttribute(pool, kept, driver.cuuint64_t(2**64 - 1 if keeps else 0)))
    ok(driver.cuMemPoolTrimTo(pool, 0))
    held = int(ok(driver.cuMemPoolGetAttribute(pool, reserved)))
    memory = ok(driver.cuMemAllocAsync(size, on_stream))
    ok(driver.cuMemFreeAsync(memory, on_stream))
    ok(driver.cuStreamSynchronize(on_stream))
    after = int(ok(driver.cuMemPoolGetAttribute(pool, reserved)))
    assert after >= held + size if keeps else after == held
    ok(driver.cuMemPoolTrimTo(pool, 0))
    assert int(ok(driver.cuMemPoolGetAttribute(pool, reserved))) == held
    ok(driver.cuMemPoolSetAttribute(pool, kept, before))


def test_a_thread_s_contexts_are_a_stack() -> None:
    context = ok(driver.cuCtxGetCurrent())
    ok(driver.cuCtxPushCurrent(context))
    ok(driver.cuCtxSetCurrent(0))
    assert int(ok(driver.cuCtxGetCurrent())) == int(context), "none on top is the one below"
    ok(driver.cuCtxSetCurrent(0))
    assert int(ok(driver.cuCtxGetCurrent())) == 0
    assert name(driver.cuCtxPopCurrent()) == "INVALID_CONTEXT"
    assert name(driver.cuMemAllocHost(64)) == "INVALID_CONTEXT"
    ok(driver.cuCtxSetCurrent(context))
    pages = ok(driver.cuMemAllocHost(64))
    ok(driver.cuMemFreeHost(pages))
