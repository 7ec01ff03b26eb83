"""results.json of `coda bench run`: its types, read strictly and written whole.

The shape is that of results.schema.json beside this file. Durations are seconds, sizes bytes, rates images per second,
shares 0 to 1. Keys that are not named there are kept, so that a later minor version may add some.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from ..errors import InputError, one_line
from ..io.atomic_files import staged_file
from ..io.json_fields import compact_json, describe, parse_json
from .schema import find_violation
from .versions import upgraded

FORMAT = "coda-bench"
FORMAT_VERSION = 2
_SMALLEST, _LARGEST = 1e-30, 1e30  # of any number, whatever its unit

Operation = Literal["encode", "encode-files", "encode-device", "quantise", "decode", "decode-device", "round-trip"]
Scenario = Literal["single-stream", "offline", "server", "offered", "concurrent"]


class Cpu(TypedDict):
    """The processor; None is what the system does not tell."""

    model: str | None
    cores: int
    quota: NotRequired[float | None]
    flags: list[str] | None
    frequency_mhz: float | None
    governor: str | None
    max_frequency_mhz: float | None


class Gpu(TypedDict):
    """One GPU, as the driver describes it."""

    index: int
    name: str
    driver: str | None
    memory_bytes: int | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    power_limit_w: NotRequired[float | None]
    ecc: NotRequired[bool | None]
    mig: NotRequired[bool | None]


class Machine(TypedDict):
    """What it ran on, and with which versions of which libraries."""

    cpu: Cpu
    memory_bytes: int | None
    platform: str
    python: str
    libraries: dict[str, str | None]
    gpus: list[Gpu]


class BundleFacts(TypedDict):
    """What ran: `fingerprints` say which tokenizer, `manifest_sha256` which export of it."""

    folder: str
    fingerprints: list[str]
    spec: dict[str, Any]
    manifest_sha256: str


class ImageFacts(TypedDict):
    """What it ran on."""

    count: int
    source: str
    sha256: str
    color: NotRequired[str]


class LoadedArtifact(TypedDict):
    """A file that was loaded, and what ran it."""

    part: str
    file: str
    backend: str
    device: str | None
    precision: str | None
    format: str
    profiles: NotRequired[list[list[int]]]


class Load(TypedDict):
    """How long a fresh process took until its first ids, and what it then held."""

    import_s: float | None
    load_s: float
    first_run_s: float | None
    host_bytes: int | None
    device_bytes: int | None


class Latency(TypedDict):
    """Seconds. `ci95` is that of the median and holds every process's, `samples` are in the order of time.

    A percentile is None where `count` samples are too few to know it (statistics.KNOWN_FROM); its upper bound, which it
    does not exceed with 95 % confidence, is None where they are too few for that.
    """

    count: int
    p50: float
    p90: float | None
    p90_upper: float | None
    p99: float | None
    p99_upper: float | None
    mean: float
    min: float
    max: float
    ci95: list[float]
    samples: list[float]
    samples_thinned: NotRequired[bool]


class ServerPoint(TypedDict):
    """Latencies in seconds at an offered rate of images per second."""

    rate: float
    count: NotRequired[int]
    p50: float
    p99: float
    max: NotRequired[float]
    achieved: float


class Server(TypedDict):
    """`max_rate` is the highest offered rate whose p99 stays under the bound, None where none did.

    Where rates were given, there is neither a bound nor a highest rate.
    """

    latency_bound_s: float | None
    offered_rate: float | None
    achieved_rate: float | None
    max_rate: float | None
    queue_p99_s: float | None
    curve: list[ServerPoint]


class CallersPoint(TypedDict):
    """What so many callers at a time get: images per second, and latencies in seconds of `count` calls."""

    callers: int
    count: int
    throughput: float
    p50: float
    p99: float


class Concurrency(TypedDict):
    """`knee` is the number of callers from which on more of them wait more than they get."""

    knee: int
    points: list[CallersPoint]


class Process(TypedDict):
    """One process's own numbers, in seconds: percentiles of its `count` samples, however few; medians of its parts.

    `callers` has what each number of concurrent callers got; the percentiles are then those of the process's own knee.
    `reference_s` is what a product of matrices took before and after, the machine's speed at that time, and `others`
    the share of the processors' time that other processes had meanwhile (`steady`).
    """

    count: int
    p50: float
    p90: float
    p99: float
    parts_s: dict[str, float | None] | None
    transfers_s: NotRequired[dict[str, float | None] | None]
    max_rate: float | None
    callers: NotRequired[list[CallersPoint] | None]
    reference_s: NotRequired[list[float] | None]
    others: NotRequired[float | None]


class Span(TypedDict):
    """Something that was done in a call: a part by its name, or "read file", "decode file", "resize", or "files"."""

    name: str
    start_s: float
    seconds: float


class Timeline(TypedDict):
    """One call of median length: its spans in the order of time, from its start. The rest is the runtime."""

    seconds: float
    spans: list[Span]


class Roofline(TypedDict):
    """A call's operations and the bytes that it moves at least; what the processor does of either in a second."""

    flops: float
    min_bytes: float
    peak_flops: float
    peak_bytes: float


class Measurement(TypedDict):
    """One operation in one scenario at one batch size; `processes` are in the order of time.

    The numbers beside them are of those that nothing disturbed (`steady.undisturbed`), or of all if there are none.

    `busy_cpus` is how many processors the process kept busy: its CPU seconds over the wall clock's. `watts` are those
    of the whole "cpu" packages and of the "gpu"s in use. `transfers_s` are those of a GPU: "host_to_device", "compute"
    (all parts together) and "device_to_host"; None where no part runs on one.
    """

    operation: Operation
    scenario: Scenario
    batch: int
    repeats: int
    warmup_runs: int
    warm: bool
    processes: list[Process]
    latency_s: Latency
    throughput: float
    throughput_ci95: list[float] | None
    outliers: int
    peak_host_bytes: int | None
    peak_device_bytes: int | None
    parts_s: dict[str, float | None] | None
    transfers_s: NotRequired[dict[str, float | None] | None]
    server: Server | None
    concurrency: NotRequired[Concurrency | None]
    busy_cpus: NotRequired[float | None]
    watts: NotRequired[dict[str, float | None]]
    joules_per_image: NotRequired[float | None]
    flops_share: float | None
    roofline: NotRequired[Roofline | None]
    timeline: NotRequired[Timeline | None]


class Skipped(TypedDict):
    """A measurement that could not be made, and why."""

    operation: str
    scenario: str
    batch: int
    problem: str


class Cell(TypedDict):
    """What was measured; `problem` says why nothing could be, `skipped` what else could not."""

    backend: str
    precision: str
    device: str
    threads: int | None
    artifacts: list[LoadedArtifact]
    load: Load | None
    problem: str | None
    measurements: list[Measurement]
    skipped: NotRequired[list[Skipped]]


class Noise(TypedDict):
    """What else the machine was doing."""

    load_before: float | None
    load_during: float | None
    throttled: bool | None
    warnings: list[str]


class Document(TypedDict):
    """results.json."""

    format: Literal["coda-bench"]
    format_version: int
    created: str
    command: list[str]
    coda_runtime: str
    machine: Machine
    bundle: BundleFacts
    images: ImageFacts
    cells: list[Cell]
    noise: Noise


@dataclass(frozen=True)
class Results:
    """Results that were checked. `source` is the file they came from, or what to call them.

    `file` is the file, where that holds the results of several bundles.
    """

    data: Document
    source: str = "results"
    file: str | None = None

    @classmethod
    def check(cls, data: object, source: str = "results") -> Results:
        """Return the results in a JSON document. Raises InputError that names the first key that is wrong."""
        _check_version(data, source)
        data = upgraded(data)
        wrong = find_violation(data, schema())
        if wrong is not None:
            raise _unusable(source, wrong.where, wrong.found, wrong.expected)
        document = cast(Document, data)
        _check_sizes(data, "", source)
        _check_cells(document["cells"], source)
        return cls(document, source)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read a file. Raises InputError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read ({one_line(error)}); expected results of `coda bench run --out`"
            ) from error
        try:
            data = parse_json(text)
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}); run `coda bench run --out {path}` again") from error
        return cls.check(data, str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads. Raises InputError for what it would not read, and OutputError."""
        self.check(self.data, str(path))
        with staged_file(path) as beside:
            beside.write_text(compact_json(self.data), encoding="utf-8")


@cache
def schema() -> dict[str, Any]:
    """Read results.schema.json."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("results.schema.json").read_text(encoding="utf-8"))
    return found


def _check_version(data: object, source: str) -> None:
    """Check kind and version first, since a file of another kind or version may differ in everything else."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else data
        raise _unusable(source, "format", describe(found), repr(FORMAT))
    version = data.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{source}: format_version is {version}, and this coda reads {FORMAT_VERSION}; "
            "it was written by a newer coda: upgrade coda-runtime"
        )


def _check_sizes(value: object, where: str, source: str) -> None:
    """Check that sums and quotients of the numbers are numbers too: those of 1e308 or 1e-308 are infinite."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_sizes(inner, f"{where}.{key}" if where else key, source)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_sizes(inner, f"{where}[{index}]", source)
    elif isinstance(value, (int, float)) and value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise _unusable(source, where, describe(value), f"0, or a number from {_SMALLEST:g} to {_LARGEST:g}")


def _check_cells(cells: list[Cell], source: str) -> None:
    """Check what a schema cannot say."""
    seen = set()
    for index, cell in enumerate(cells):
        key = (cell["backend"], cell["precision"], cell["device"], cell["threads"])
        if key in seen:
            raise _unusable(source, f"cells[{index}]", f"{key} again", "each combination once")
        seen.add(key)
        _check_cell(cell, f"cells[{index}]", source)


def _check_cell(cell: Cell, where: str, source: str) -> None:
    if cell["problem"] is not None and cell["measurements"]:
        raise _unusable(source, f"{where}.measurements", "some", "none, since the cell has a problem")
    seen = set()
    for index, measurement in enumerate(cell["measurements"]):
        here = f"{where}.measurements[{index}]"
        key = (measurement["operation"], measurement["scenario"], measurement["batch"])
        if key in seen:
            raise _unusable(source, here, f"{key[0]}, {key[1]}, batch {key[2]} again", "each of them once in a cell")
        seen.add(key)
        for name, scenarios in (("server", ("server", "offered")), ("concurrency", ("concurrent",))):
            found = measurement.get(name)
            if (measurement["scenario"] in scenarios) != (found is not None):
                where_only = f"an object, only in the scenario {' or '.join(scenarios)}"
                raise _unusable(source, f"{here}.{name}", describe(found), where_only)
        _check_latency(measurement["latency_s"], f"{here}.latency_s", source)


def _check_latency(latency: Latency, where: str, source: str) -> None:
    percentiles = (latency["p50"], latency["p90"], latency["p99"])
    rising = [latency["min"], *(value for value in percentiles if value is not None), latency["max"]]
    slack = 1e-9 * latency["max"]  # interpolated percentiles round
    if any(later < earlier - slack for earlier, later in pairwise(rising)):
        raise _unusable(source, where, f"{rising}", "min, p50, p90, p99, max in rising order")
    if latency["ci95"][0] > latency["ci95"][1]:
        raise _unusable(source, f"{where}.ci95", f"{latency['ci95']}", "the lower end first")


def _unusable(source: str, where: str, found: str, expected: str) -> InputError:
    return InputError(
        f"{source}: {where}: found {found}, expected {expected}; expected a file that `coda bench run --out` wrote: "
        "run it again, or correct the file"
    )
