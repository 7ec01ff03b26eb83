"""The writer of config.pbtxt against protobuf's parser."""

from __future__ import annotations

from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from coda_runtime.triton.pbtxt import Symbol, entries, render

TEXT = st.text(st.characters(exclude_categories=("Cs",)))


@given(TEXT, st.dictionaries(TEXT, TEXT), st.lists(st.integers(-(2**63), 2**63 - 1)), st.booleans(), st.text())
def test_what_is_written_is_read(
    name: str, values: dict[str, str], dims: list[int], optional: bool, comment: str
) -> None:
    source = {"name": name, "data_type": Symbol("TYPE_UINT8"), "dims": dims, "optional": optional}
    parameters = entries({key: {"string_value": value} for key, value in values.items()})
    text = render({"name": name, "max_batch_size": 3, "input": [source], "parameters": parameters}, [comment])
    read = text_format.Parse(text, ModelConfig())
    expected = ModelConfig(name=name, max_batch_size=3)
    expected.input.add(name=name, data_type="TYPE_UINT8", dims=dims, optional=optional)
    for key, value in values.items():
        expected.parameters[key].string_value = value
    assert read == expected
    assert text.isascii()


def test_how_it_looks() -> None:
    message = {"name": "encode", "dims": [8, 3], "step": [{"on": True}, {}], "none": []}
    assert render(message, ["one", "two\nplatform: 1"]) == (
        '# one\n# two platform: 1\nname: "encode"\ndims: 8\ndims: 3\nstep {\n  on: true\n}\nstep {\n}\n'
    )
