"""The load arguments are one list: everything that takes them takes its fields, by their names and types."""

from __future__ import annotations

import inspect
import json
import typing
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import coda_runtime
from coda_runtime import InputError, LoadOptions
from coda_runtime.backends import base
from coda_runtime.backends.base import AllOptions, KeywordOptions
from coda_runtime.cli import app, options

FIELDS = {field.name: field for field in fields(LoadOptions)}
NAMED = ["device", "backend", "precision", "providers", "threads"]


def test_load_takes_every_field() -> None:
    parameters = list(inspect.signature(coda_runtime.load).parameters)
    assert parameters == ["path_or_hub_id", *NAMED, "revision", "options"]
    assert list(FIELDS)[: len(NAMED)] == NAMED, "by position too"
    for name in NAMED:
        assert inspect.signature(coda_runtime.load).parameters[name].default == FIELDS[name].default
    hints = typing.get_type_hints(LoadOptions)
    assert typing.get_type_hints(KeywordOptions) == {name: kind for name, kind in hints.items() if name not in NAMED}
    assert typing.get_type_hints(AllOptions) == hints


def test_unknown_arguments_are_reported(sealed: Path) -> None:
    with pytest.raises(TypeError, match="precisions"):
        coda_runtime.load(sealed, precisions="fp32")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "gpu"}, 'device is \'gpu\'; expected "auto", "cpu", "cuda" or "cuda:N"'),
        ({"device": "cuda:x"}, "device is 'cuda:x'"),
        ({"device": 0}, "device is 0"),
        ({"threads": 0}, "threads is 0; expected a whole number from 1 to 1024"),
        ({"threads": True}, "threads is True"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"providers": "CPUExecutionProvider"}, "providers is 'CPUExecutionProvider'; expected a list"),
        ({"providers": []}, "providers is an empty list"),
        ({"color": "p3"}, "color is 'p3'; expected 'stored' or 'srgb'"),
        ({"reproducible": True, "device": "cuda"}, "device is 'cuda'; leave out device, or leave out reproducible"),
        ({"reproducible": True, "backend": "tensorrt"}, "backend is 'tensorrt'; leave out backend"),
        ({"reproducible": True, "providers": ["X"]}, r"providers is \['X'\]; leave out providers"),
    ],
)
def test_wrong_values_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoadOptions(**given)


def test_arguments_make_the_same_options_again() -> None:
    made = LoadOptions("cuda:1", "onnxruntime", "bf16", [("X", {"device_id": 1})], 3, "always", True, "srgb")
    assert list(made.arguments()) == list(FIELDS)
    assert LoadOptions(**made.arguments()) == made
    named = LoadOptions(providers=["X"])
    assert LoadOptions(**json.loads(json.dumps(named.arguments()))) == named


def test_reproducible_stands_for_where_it_runs() -> None:
    made = LoadOptions(reproducible=True)
    assert (made.device, made.backend, made.threads) == ("cpu", "onnxruntime", None)
    assert made == LoadOptions("cpu", "onnxruntime", reproducible=True) == LoadOptions(**made.arguments())


# They read no image files; verify measures every precision, and what is right rather than what is fast.
NO_USE = {("decode", "color"), ("verify", "color"), ("verify", "nvtx"), ("verify", "ignore_tuning")}


@pytest.mark.parametrize(
    "command", ["encode", "decode", "reconstruct", "tokenize", "serve", "eval", "bench run", "verify"]
)
def test_every_command_that_loads_has_an_option_for_each(command: str) -> None:
    if command == "eval":
        pytest.importorskip("coda_deploy")
    done = CliRunner().invoke(app.cli, [*command.split(), "--help"])
    assert done.exit_code == 0, done.output
    for field in FIELDS.values():
        if "help" not in field.metadata:
            continue
        name = field.metadata.get("option", f"--{field.name.replace('_', '-')}")
        assert (f"{name} " in done.output) == ((command, field.name) not in NO_USE), name


def test_a_made_up_argument_is_one_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line shows of an argument stands beside it."""
    made_up = ("warmth", int, base.field(default=3, metadata={"help": "How warm.", "range": (1, 9)}))
    with_one_more = make_dataclass("WithOneMore", [made_up], bases=(LoadOptions,), frozen=True)
    monkeypatch.setattr(options, "LoadOptions", with_one_more)
    got: list[Any] = []

    @click.command()
    @options.load_options(but=["threads"])
    def command(options: Any) -> None:
        got.append(options)

    assert "--warmth INTEGER RANGE" in CliRunner().invoke(command, ["--help"]).output
    assert CliRunner().invoke(command, ["--threads", "2"]).exit_code == 2
    assert CliRunner().invoke(command, ["--warmth", "10"]).exit_code == 2
    assert CliRunner().invoke(command, []).exit_code == 0
    typed = ["--warmth", "5", "--provider", "A", "--provider", "B", "--allow-host-code", "--device", "cpu"]
    assert CliRunner().invoke(command, typed).exit_code == 0
    assert got == [
        with_one_more(),
        with_one_more("cpu", providers=("A", "B"), allow_host_code=True, warmth=5),
    ]
