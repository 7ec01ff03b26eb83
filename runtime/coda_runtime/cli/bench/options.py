"""What the commands of `coda bench` share: options, and how values are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ...bench.plan import AXES, Plan
from ...errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_WORK = (
    click.option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Images to measure with; by default the bundle's samples.",
    ),
    click.option(
        "--operation",
        default="encode,decode",
        show_default=True,
        help="Work to time: encode, encode-files, encode-device, quantise, decode, decode-device, round-trip.",
    ),
    click.option(
        "--scenario",
        default="single-stream",
        show_default=True,
        help="How calls come: single-stream, offline, server, offered, concurrent.",
    ),
    click.option("--batch", default="1,8", show_default=True, help="Images per call; for server, the maximum."),
    click.option(
        "--seconds",
        type=float,
        default=Plan.seconds,
        show_default=True,
        help="Minimum time of each measurement in each process, in seconds.",
    ),
    click.option("--latency-bound", type=float, metavar="MS", help="Bound on the 99th percentile, for server."),
    click.option("--rate", help="Images per second, several separated by commas, for offered."),
    click.option(
        "--callers", default="1,2,4,8", show_default=True, help="Numbers of callers at a time, for concurrent."
    ),
    click.option(
        "--timeout", type=float, default=600.0, show_default=True, help="Maximum seconds for one call, or for loading."
    ),
)


def work_options(function: F) -> F:
    """Decorate a command with what is to be measured; it is given these values as `work`, for `plan_of`."""
    for option in reversed(_WORK):
        function = option(function)
    return function


def plan_of(work: Mapping[str, Any], **cell: Any) -> Plan:
    """Return the plan of the values of `work_options` and of a cell's axes. Raises InputError."""
    check_timeout(work["timeout"])
    bound = work["latency_bound"]
    return Plan(
        operations=several("--operation", work["operation"], str),
        scenarios=several("--scenario", work["scenario"], str),
        batches=several("--batch", work["batch"], int),
        seconds=work["seconds"],
        latency_bound_s=None if bound is None else bound / 1e3,
        rates=() if work["rate"] is None else several("--rate", work["rate"], float),
        callers=several("--callers", work["callers"], int),
        **cell,
    )


def several(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Return the values between commas. Raises InputError for none, and for anything but a number where one is due."""
    try:
        values = tuple(kind(value.strip()) for value in text.split(",") if value.strip())
    except ValueError:
        values = ()
    if not values:
        example = "whole numbers, such as 1,4,8" if kind is int else "one name, or several, separated by commas"
        raise InputError(f"{option} is {text!r}; expected {example}")
    return values


def axes(option: str, settings: tuple[str, ...]) -> dict[str, Any]:
    """Return the axes of one cell of "backend=onnxruntime", "threads=2" and the like. Raises InputError."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in AXES or not value:
            raise InputError(f"{option} is {setting!r}; expected one of {', '.join(AXES)} and its value: threads=2")
        kind: Any = int if name == "threads" else str
        found[name if name == "threads" else f"{name}s"] = several(option, value, kind)
    return found


def check_timeout(seconds: float) -> None:
    """Raise InputError for what is no time."""
    if not 0 < seconds <= 86_400:
        raise InputError(f"--timeout is {seconds:g}; expected seconds, over 0 and up to 86400")


def share(text: str) -> float:
    """Return 0.05 for "5%" and for "0.05". Raises InputError for what is no number."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        return float(number) / (100 if percent else 1)
    except ValueError:
        raise InputError(f"--threshold is {text!r}; expected a share, such as 5% or 0.05") from None
