from __future__ import annotations

import json
import logging
import re

import pytest

from coda_runtime.errors import ArtifactError, ClosedError, DeviceMemoryError, TokenError
from coda_runtime.serving.batching import QueueFullError
from coda_runtime.serving.errors import KINDS, RequestError, request_error
from coda_runtime.serving.logs import Lines


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TokenError("ids are wrong"), "invalid"),
        (QueueFullError("4 images wait"), "busy"),
        (ClosedError("stopping"), "unavailable"),
    ],
)
def test_what_the_client_can_mend_is_reported_in_full(error: Exception, kind: str) -> None:
    failure = request_error(error)
    assert (failure.kind, str(failure), failure.status) == (kind, str(error), KINDS[kind].status)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ArtifactError("/srv/secret/bundle gave nonsense"), "engine"),
        (DeviceMemoryError("/srv/secret: 3 bytes left"), "memory"),
        (KeyError("/srv/secret"), "internal"),
    ],
)
def test_what_is_inside_stays_inside_and_is_found_in_the_log(
    error: Exception, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    failure = request_error(error)
    assert failure.kind == kind
    assert "secret" not in str(failure)
    (number,) = re.findall(r"\(error (\w+) in the server's log\)", str(failure))
    (record,) = caplog.records
    assert record.fields == {"error_id": number, "kind": kind}  # type: ignore[attr-defined]
    assert "/srv/secret" in record.getMessage()


def test_a_rejection_stays_what_it_is_and_quotes_no_more_than_a_line() -> None:
    failure = RequestError("too_large", "x" * 10_000)
    assert request_error(failure) is failure
    assert len(str(failure)) < 600


def record_of(message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("coda.serve", logging.INFO, "f.py", 1, message, (), None)
    record.fields = fields
    return record


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_of_the_log_is_one_line(as_json: bool) -> None:
    line = Lines(as_json).format(record_of("request", id="a\nb\rc\x85d\u2028e\x1b[2J", images=3))
    assert len(line.splitlines()) == 1
    if as_json:
        assert json.loads(line)["id"] == "a\nb\rc\x85d\u2028e\x1b[2J"
        assert json.loads(line)["level"] == "info"
    else:
        assert line.endswith(r"info request id=a\nb\rc\x85d\u2028e\x1b[2J images=3")


def test_tracebacks_are_in_the_log() -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        record = record_of("internal")
        record.exc_info = (KeyError, error, error.__traceback__)
    assert "KeyError: 'lost'" in json.loads(Lines(as_json=True).format(record))["traceback"]
    assert Lines(as_json=False).format(record).splitlines()[-1] == "KeyError: 'lost'"
