"""The page of the training configurations, from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from coda_deploy.train.config import TrainConfig
from coda_deploy.train.sections import Configuration
from coda_deploy.train.tables import literal, plain
from coda_deploy.train.vae.config import VaeTrainConfig
from docs.generator.commands import escaped

_HEAD = """# Training configuration

A TOML file for `--config`: every key may be left out, an unknown one is an error. `coda train --config NAME
--show-config` prints a configuration with all its values, and `--set SECTION.KEY=VALUE` changes one. What the sections
are for is told in [Training](../training.md).
"""


def page() -> str:
    """Return the page: each section of both configurations, its keys and their defaults."""
    lines = [_HEAD]
    for command, kind in (("coda train", TrainConfig), ("coda train-vae", VaeTrainConfig)):
        lines += [f"## {command}", "", *_sections(command, kind())]
    return "\n".join(lines) + "\n"


def _sections(command: str, configuration: Configuration) -> Iterator[str]:
    for field in dataclasses.fields(configuration):  # type: ignore[arg-type]
        section = getattr(configuration, field.name)
        yield f"### [{field.name}] of {command}"
        yield ""
        yield _said(type(section).__doc__ or "")
        yield ""
        yield "| key | default |"
        yield "| --- | --- |"
        for name, value in dataclasses.asdict(section).items():
            shown = "that of the VAE" if value is None else f"`{literal(plain(value))}`"
            yield f"| `{name}` | {shown} |"
        yield ""


def _said(docstring: str) -> str:
    return escaped(docstring.replace("``", "`"))
