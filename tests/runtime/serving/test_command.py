"""The command itself, and docs/serving.md: its examples are run, its options are the command's."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from coda_runtime.cli.options import load_options
from coda_runtime.cli.serve import command
from coda_runtime.errors import InputError
from coda_runtime.serving.errors import KINDS
from coda_runtime.serving.options import ServeOptions
from tests.runtime import tiny
from tests.runtime.serving.process import LIMIT, Server, run_serve

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
OPTIONS = {max(parameter.opts, key=len): parameter.name for parameter in command.params if parameter.name != "bundle"}
DEFAULTS = command.make_context("serve", ["bundle"]).params
OF_EVERY_COMMAND = {
    *(name for parameter in click.command()(load_options()(lambda options: None)).params for name in parameter.opts),
    "--debug",
} - {"--device"}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the examples, with the photo they name."""
    Image.fromarray(tiny.photos(1, 60, 50)[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def at(server: Server, text: str) -> str:
    return text.replace("localhost:8080", server.http).replace("localhost:8081", server.grpc)


@pytest.mark.parametrize("number", [0, 1])
def test_python_examples_run(server: Server, folder: Path, number: int) -> None:
    names: dict[str, Any] = {}
    exec(at(server, blocks("python")[number]), names)
    if number == 0:
        assert names["ids"].shape == (1, tiny.TOKENS)
    else:
        assert names["pixels"].shape == (1, tiny.SIZE, tiny.SIZE, 3)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("number", "output"), [(0, '"image"'), (1, '"ids"')])
def test_curl_examples_run(server: Server, folder: Path, number: int, output: str) -> None:
    script = at(server, blocks("sh")[number])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert output in done.stdout, done.stderr
    assert "error" not in done.stdout


def test_options_of_the_page_are_those_of_the_command() -> None:
    rows: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|", PAGE, re.MULTILINE):
        options = re.findall(r"--[\w-]+", names)
        rows |= dict(zip(options, default.split(", ") if len(options) > 1 else [default], strict=True))
    assert set(rows) == set(OPTIONS) - OF_EVERY_COMMAND
    for option, told in rows.items():
        default = DEFAULTS[OPTIONS[option]]
        known = "what the engines take at once" if default is None else str(default).removesuffix(".0")
        assert (option, told) == (option, known)


def test_defaults_of_the_command_are_those_of_a_server() -> None:
    defaults = dataclasses.asdict(ServeOptions())
    assert defaults == {name: DEFAULTS[name] for name in defaults}


def test_kinds_of_the_page_are_those_of_the_server() -> None:
    rows = re.findall(r"\| (\d{3}) \| (\w*) ?\| (`.*?`) \|$", PAGE, re.MULTILINE)
    told = {kind: (int(status), code) for status, code, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    # gRPC has no bodies of its own; who hung up is told nothing.
    known = {name: (kind.status, "" if kind.status in (408, 415) else kind.code) for name, kind in KINDS.items()}
    del known["client_gone"]
    assert told == known


def test_the_inference_service_starts_what_there_is() -> None:
    (text,) = blocks("yaml")
    service = yaml.safe_load(text)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = service["spec"]["predictor"]
    (container,) = predictor["containers"]
    image = (Path(__file__).parents[3] / "examples" / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    (entry,) = re.findall(r'ENTRYPOINT \["coda", "serve", (.*)\]', image)
    arguments = re.findall(r'"(.*?)"', entry) + container["args"]
    values = command.make_context("serve", arguments).params
    assert values["host"] == "0.0.0.0"
    assert values["http_port"] == container["ports"][0]["containerPort"]
    assert predictor["terminationGracePeriodSeconds"] > values["drain_seconds"]


def test_help_has_an_example() -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    assert "coda serve bundle/ --host 127.0.0.1" in done.output


def test_wrong_usage_is_exit_code_2() -> None:
    assert CliRunner().invoke(command, ["bundle", "--http-port", "70000"]).exit_code == 2


def test_limits_that_contradict_each_other_are_rejected() -> None:
    with pytest.raises(InputError, match="raise max-queue or lower max-images"):
        ServeOptions(max_images=10, max_queue=9)
    with pytest.raises(InputError, match="both 8080"):
        ServeOptions(http_port=8080, grpc_port=8080)


def test_what_does_not_load_is_one_line_and_exit_code_1(sealed: Path, tmp_path: Path) -> None:
    nowhere = CliRunner().invoke(command, [str(sealed), "--host", "nowhere.invalid"])
    assert (nowhere.exit_code, "cannot listen on nowhere.invalid:8081 (" in nowhere.output) == (1, True)
    missing = CliRunner().invoke(command, [str(tmp_path / "nothing")])
    assert (missing.exit_code, missing.output.count("\n")) == (1, 1)
    done = run_serve(sealed, "--http-port", 0, "--grpc-port", 0, "--precision", "bf16")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert error.startswith("error: precision is 'bf16'; this bundle has \"auto\", 'fp32'; add it: coda export ")
