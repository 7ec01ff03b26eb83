from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from coda_runtime.errors import InputError
from coda_runtime.serving.admission import Admission, Record
from coda_runtime.serving.errors import RequestError
from coda_runtime.serving.metrics import Metrics
from coda_runtime.serving.options import MAX_TEXTS, SMALL_TEXT_BYTES, ServeOptions


def test_few_requests_with_much_text_are_under_way_and_small_ones_pass_them() -> None:
    small, large = SMALL_TEXT_BYTES, SMALL_TEXT_BYTES + 1
    at_a_time: list[int] = []
    under_way: list[int] = []

    async def ask(admission: Admission, size: int, go: asyncio.Event) -> None:
        async with admission.room_for_text(size):
            under_way.append(size)
            at_a_time.append(under_way.count(large))
            await go.wait()
            under_way.remove(size)

    async def main() -> None:
        admission, go = Admission(ServeOptions(), Metrics(CollectorRegistry())), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for size in [large] * (2 * MAX_TEXTS + 1) + [small]:
                tasks.create_task(ask(admission, size, go))
            while small not in under_way:
                await asyncio.sleep(0)
            go.set()

    asyncio.run(main())
    assert (len(at_a_time), max(at_a_time)) == (2 * MAX_TEXTS + 2, MAX_TEXTS)


def test_the_log_says_why_a_request_was_rejected(caplog: pytest.LogCaptureFixture) -> None:
    async def work(record: Record) -> None:
        raise InputError("ids has 2 tokens a row")

    admission = Admission(ServeOptions(), Metrics(CollectorRegistry()))
    admission.open()
    with caplog.at_level(logging.INFO, "coda.serve"), pytest.raises(RequestError):
        asyncio.run(admission.take("http", "decode", work))
    (line,) = (record.fields for record in caplog.records if record.message == "request")
    told = {"status": "INVALID_ARGUMENT", "kind": "invalid", "error": "ids has 2 tokens a row"}
    assert {key: line[key] for key in told} == told
