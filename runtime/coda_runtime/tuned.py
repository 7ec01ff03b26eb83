"""What `coda tune` recorded on this machine: kept in the user's cache, believed as far as it still holds, told else.

A record says which backend each part of a bundle runs on, and on how many threads. It can choose nothing that
backend="auto" would not take anyway: neither another precision, nor a backend that has to be asked for by name, nor
code for the CPU. So it is followed by putting its backend first (`select.choose`), and what is wrong with it costs
speed alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from .backends.base import MAX_THREADS, LoadOptions
from .backends.registry import is_automatic
from .errors import InputError, OutputError, one_line
from .format.bundle import Bundle
from .format.parts import PARTS
from .format.precision import PRECISIONS
from .io.json_fields import Fields, compact_json, describe, is_int, is_object, parse_json
from .io.private_files import is_private, make_private, write_private
from .io.regular_files import open_regular
from .io.user_folders import own_cache
from .machine.devices import count_cuda_devices, find_gpu
from .machine.processors import cpu_quota, describe_cpu
from .requirements import ENGINE_EXTRAS, ENGINE_LIBRARIES, installed_version

FORMAT, FORMAT_VERSION = "coda-tuning", 1
TUNED = ("encode", "decode")
"""The operations that are measured: between them they run every part once."""

_MAX_BYTES, _MAX_DEPTH = 1 << 16, 8
_MOST_TOLD = 6
_LIBRARIES = tuple(dict.fromkeys((*ENGINE_LIBRARIES, *(name for extra in ENGINE_EXTRAS.values() for name in extra))))
_OF_GPUS = ("tensorrt", "cuda")
_told: set[str] = set()

Facts = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class Setting:
    """What a part runs on: a backend by name, and CPU threads, None for the library's own number."""

    backend: str
    threads: int | None


@dataclass(frozen=True)
class Figures:
    """What was measured of the best setting of an operation: median seconds of a call of `batch` images.

    `processes` counts those that it rests on, which something disturbed where `disturbed`.
    """

    batch: int
    latency_s: float
    images_per_s: float
    processes: int
    disturbed: bool


@dataclass(frozen=True)
class Tuned:
    """The best in one precision: a setting for each part, figures for each of TUNED."""

    parts: Mapping[str, Setting]
    measured: Mapping[str, Figures]


@dataclass(frozen=True)
class Record:
    """What was measured, and where: `facts` are what has to be the same for it to be followed.

    `device` is "cpu" or "cuda".
    """

    bundle: str
    device: str
    aim: str
    precisions: Mapping[str, Tuned]
    facts: Facts
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def to_json(self) -> dict[str, Any]:
        """Return the object to write."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Read what `to_json` gave, believing nothing of it. Raises InputError that says which key is wrong."""
        fields = Fields(data, "", _fail)
        fields.take("format", lambda value: value == FORMAT, f'"{FORMAT}"')
        fields.take("format_version", lambda value: is_int(value) and value == FORMAT_VERSION, str(FORMAT_VERSION))
        precisions = fields.take("precisions", is_object, "an object")
        unknown = [name for name in precisions if name not in PRECISIONS]
        if unknown:
            _fail(f"precisions has {describe(unknown[0])}; expected {', '.join(PRECISIONS)}")
        facts = fields.take("facts", _is_facts, "an object of text and numbers")
        record = cls(
            bundle=fields.take("bundle", _is_digest, "64 lower-case hexadecimal digits"),
            device=fields.take("device", _is_kind, '"cpu" or "cuda"'),
            aim=fields.string("aim"),
            precisions={name: _tuned(value, f"precisions.{name}") for name, value in precisions.items()},
            facts=facts,
            created=fields.string("created"),
        )
        _check_all_known(fields, "the record")
        return record

    def outdated(self, bundle: Bundle, device: str) -> list[str]:
        """Return what is not as it was when this was measured, in words; empty where all is."""
        if self.bundle != bundle_key(bundle) or self.device != _kind(device):
            return ["it belongs to another bundle or device"]
        now = facts_of(device)
        changed = [name for name in dict.fromkeys((*now, *self.facts)) if now.get(name) != self.facts.get(name)]
        return [
            f"{name} is {_value(now.get(name))} and was {_value(self.facts.get(name))}" for name in changed[:_MOST_TOLD]
        ]


def follow(bundle: Bundle, options: LoadOptions, precision: str) -> Mapping[str, Setting]:
    """Return what a record says of each part, for what `options` leave open; nothing where there is none.

    A record that no longer holds, or cannot be read, is told once in a process, by a RuntimeWarning, and ignored.
    """
    open_backend = options.backend == "auto" or (isinstance(options.backend, str) and options.threads is None)
    if options.ignore_tuning or options.reproducible or options.providers is not None or not open_backend:
        return {}
    with contextlib.suppress(OutputError):  # without a home there is no record
        if not any(folder().glob(f"{bundle_key(bundle)}-*.json")):  # before a driver is asked for its GPUs
            return {}
        device = device_of(options)
        try:
            record = read(bundle, device)
        except InputError as problem:
            _tell(str(problem))
            return {}
        if record is not None and precision in record.precisions:
            return record.precisions[precision].parts
    return {}


def read(bundle: Bundle, device: str) -> Record | None:
    """Return the record of a bundle on a device ("cpu" or "cuda:N"), None if there is none. GPUs of a model share one.

    Raises InputError for one that does not hold here, which says why and what to do; OutputError without a home.
    """
    path = record_path(bundle, device)
    again = f"measure again: coda tune {shlex.quote(str(bundle.folder))}"
    try:
        try:
            with open_regular(path) as file:
                if not is_private(file, path):
                    _fail("others than its user may have written it")
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            _fail(f"it cannot be read ({one_line(error)})")
        if len(data) > _MAX_BYTES:
            _fail(f"it has more than {_MAX_BYTES} bytes")
        try:
            parsed = parse_json(data, _MAX_DEPTH)
        except ValueError as error:
            _fail(f"it is not JSON ({one_line(error)})")
        record = Record.from_json(parsed)
        if changed := record.outdated(bundle, device):
            _fail("; ".join(changed))
    except InputError as problem:
        raise InputError(f"the record of `coda tune` in {path} is not followed: {problem}; {again}") from problem
    return record


def records(bundle: Bundle) -> dict[str, Record | str]:
    """Return what is recorded of a bundle, by device; of a record that does not hold here, why."""
    out: dict[str, Record | str] = {}
    with contextlib.suppress(OutputError):
        key = bundle_key(bundle)
        for path in sorted(folder().glob(f"{key}-*.json")):
            device = path.stem.removeprefix(f"{key}-")
            if not _is_kind(device):
                continue
            try:
                found = read(bundle, device)
            except InputError as problem:
                out[device] = str(problem)
            else:
                if found is not None:
                    out[device] = found
    return out


def save(record: Record, bundle: Bundle) -> Path:
    """Write a record in the place of an earlier one, all of it or nothing. Raises OutputError."""
    path = record_path(bundle, record.device)
    try:
        path.parent.parent.parent.mkdir(parents=True, exist_ok=True)
        for inner in (path.parent.parent, path.parent):
            if not make_private(inner):
                raise OutputError(f"{inner} is another user's; set XDG_CACHE_HOME to a folder of your own")
        write_private(path, compact_json(record.to_json()).encode())
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({one_line(error)}); set XDG_CACHE_HOME to a folder that may be written"
        ) from error
    return path


def forget(bundle: Bundle, device: str) -> Path | None:
    """Remove a record and return where it was, None if there was none. Raises OutputError."""
    path = record_path(bundle, device)
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path} cannot be removed ({one_line(error)}); remove it by hand") from error
    return path


def folder() -> Path:
    """Return where the records are; it need not exist. Raises OutputError where there is no home."""
    return own_cache() / "tuned"


def record_path(bundle: Bundle, device: str) -> Path:
    """Return where the record of a bundle and a device is. Raises OutputError where there is no home."""
    return folder() / f"{bundle_key(bundle)}-{_kind(device)}.json"


def bundle_key(bundle: Bundle) -> str:
    """Return the SHA-256 of what runs: every graph and engine of the bundle, whatever was measured of them since."""
    files = sorted(
        f"{a.part} {a.format} {a.precision} {a.sha256}" for a in bundle.manifest.artifacts if a.part in PARTS
    )
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


def make_record(bundle: Bundle, device: str, aim: str, precisions: Mapping[str, Tuned]) -> Record:
    """Return a record of this machine as it is now."""
    return Record(bundle_key(bundle), _kind(device), aim, precisions, facts_of(device))


def device_of(options: LoadOptions) -> str:
    """Return the device that `options` mean: "cuda:N", or "cpu"; "auto" is the first GPU where there is one."""
    index = options.cuda_index()
    if index is None and options.device == "auto" and count_cuda_devices() > 0:
        index = 0
    return "cpu" if index is None else f"cuda:{index}"


def facts_of(device: str) -> Facts:
    """Return what decides which setting is the fastest: the processor or GPU, and the version of every library."""
    out: dict[str, str | int | float | None] = {}
    if device == "cpu":
        cpu = describe_cpu()
        out |= {"machine": cpu["machine"], "processor": cpu["model"], "instructions": " ".join(cpu["flags"])}
        out |= {"cores": cpu["cores"], "quota": cpu_quota()}
    else:
        gpu = find_gpu(int(device.partition(":")[2] or 0))
        found = (None, None, None) if gpu is None else (gpu.name, gpu.capability, gpu.driver)
        out |= dict(zip(("gpu", "capability", "driver"), found, strict=True))
    libraries = [name for name in _LIBRARIES if device != "cpu" or not name.startswith(_OF_GPUS)]
    out |= {name: version for name in libraries if (version := installed_version(name)) is not None}
    return {**out, "coda-runtime": installed_version("coda-runtime")}  # None where it runs from its source


def _tuned(data: object, where: str) -> Tuned:
    fields = Fields(data, where, _fail)
    parts = fields.take("parts", lambda value: is_object(value) and value.keys() == PARTS.keys(), f"{', '.join(PARTS)}")
    measured = fields.take(
        "measured", lambda value: is_object(value) and value.keys() == set(TUNED), f"{' and '.join(TUNED)}"
    )
    _check_all_known(fields, where)
    return Tuned(
        {name: _setting(value, f"{where}.parts.{name}") for name, value in parts.items()},
        {name: _figures(value, f"{where}.measured.{name}") for name, value in measured.items()},
    )


def _setting(data: object, where: str) -> Setting:
    fields = Fields(data, where, _fail)
    backend = fields.string("backend")
    if not is_automatic(backend):
        _fail(f'{where}.backend is {describe(backend)}, which is none that backend="auto" chooses from')
    most = min(MAX_THREADS, describe_cpu()["cores"])
    threads = fields.take(
        "threads",
        lambda value: value is None or (is_int(value) and 1 <= value <= most),
        f"null, or a whole number from 1 to {most}, the processors here",
    )
    _check_all_known(fields, where)
    return Setting(backend, threads)


def _figures(data: object, where: str) -> Figures:
    fields = Fields(data, where, _fail)
    out = Figures(
        batch=fields.positive("batch"),
        latency_s=fields.take("latency_s", _is_positive, "a number over 0"),
        images_per_s=fields.take("images_per_s", _is_positive, "a number over 0"),
        processes=fields.positive("processes"),
        disturbed=fields.take("disturbed", lambda value: isinstance(value, bool), "true or false"),
    )
    _check_all_known(fields, where)
    return out


def _check_all_known(fields: Fields, where: str) -> None:
    if rest := fields.rest():
        _fail(f"{where} has {describe(next(iter(rest)))}, which no record has")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _kind(device: str) -> str:
    """Return "cpu" or "cuda": which number a GPU has says nothing of it, its model does (`facts_of`)."""
    return device.partition(":")[0]


def _is_kind(value: object) -> bool:
    return value in ("cpu", "cuda")


def _is_facts(value: object) -> bool:
    kinds = (str, int, float, type(None))
    return isinstance(value, dict) and all(isinstance(key, str) and isinstance(of, kinds) for key, of in value.items())


def _value(value: object) -> str:
    return "not there" if value is None else describe(value) if isinstance(value, str) else json.dumps(value)


def _fail(reason: str) -> NoReturn:
    raise InputError(reason)


def _tell(message: str) -> None:
    if message not in _told:
        _told.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=5)  # who called load
