from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as messages

from coda_runtime.errors import CodaError, InputError
from coda_runtime.serving.errors import RequestError
from coda_runtime.serving.options import MAX_TEXT_BYTES
from coda_runtime.serving.request_summary import MAX_FIELDS, summarise

TENSOR = {"name": "ids", "datatype": "INT32", "shape": [1, 1]}


@given(st.text(max_size=25), st.lists(st.binary(max_size=300), max_size=5), st.integers(0, 5), st.text(max_size=300))
def test_model_and_size_are_those_of_the_message(model: str, raw: list[bytes], inputs: int, name: str) -> None:
    message = messages.ModelInferRequest(model_name=model, id=name, inputs=[TENSOR] * inputs, raw_input_contents=raw)
    about = summarise(message.SerializeToString())
    about.check()
    assert about.model == model
    message.ClearField("raw_input_contents")
    # Beside its bytes each raw content has a tag and a length.
    assert 0 <= about.text_bytes - message.ByteSize() <= 3 * len(raw)


@given(st.binary(max_size=40))
def test_any_bytes_have_a_summary(message: bytes) -> None:
    about = summarise(message)
    if about.problem:
        with pytest.raises(CodaError, match="not a ModelInferRequest"):
            about.check()


def test_text_is_bounded_and_raw_contents_are_not_text() -> None:
    raw = messages.ModelInferRequest(inputs=[TENSOR], raw_input_contents=[bytes(MAX_TEXT_BYTES + 1)])
    summarise(raw.SerializeToString()).check()
    tensor = TENSOR | {"contents": {"bytes_contents": [bytes(MAX_TEXT_BYTES)]}}
    with pytest.raises(RequestError, match="send raw_input_contents") as failure:
        summarise(messages.ModelInferRequest(inputs=[tensor]).SerializeToString()).check()
    assert failure.value.code == "RESOURCE_EXHAUSTED"


def test_fields_are_counted_no_further_than_may_be() -> None:
    empty_input = b"\x2a\x00"
    summarise(empty_input * MAX_FIELDS).check()
    with pytest.raises(InputError, match=f"more than {MAX_FIELDS} fields"):
        summarise(empty_input * (MAX_FIELDS + 1)).check()
