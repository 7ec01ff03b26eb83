"""What makes numbers doubtful, and what two files do not have in common: other work, another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..io.counts import count
from .results import Cell, Machine, Results

BUSY = 0.1
"""The share of the CPU that other processes may use without a word."""


def other_work(a: Results, b: Results) -> tuple[str, ...]:
    """Return why the two did different work, one sentence each; empty if they did the same."""
    return tuple(_other_work(a, b))


def other_circumstances(a: Results, b: Results) -> tuple[str, ...]:
    """Return what differs around the same work: another export, machine or library. One sentence each."""
    return tuple(_other_circumstances(a, b))


def share_a_tokenizer(a: Results, b: Results) -> bool:
    """Return whether both are of one tokenizer: its exports share a fingerprint, whichever version wrote them."""
    return bool(set(a.data["bundle"]["fingerprints"]) & set(b.data["bundle"]["fingerprints"]))


def doubts(*results: Results) -> str | None:
    """Return why nothing may be concluded from the times in these files, in words, or None."""
    for of in results:
        noise = of.data["noise"]
        load = noise["load_before"] if noise["load_during"] is None else noise["load_during"]
        if load is not None and load > BUSY:
            return f"the machine was busy with other work ({load:.0%} of the CPU, {of.source})"
        if noise["throttled"]:
            return f"a processor was too hot or short of power ({of.source})"
    return None


def same_processor(a: Results, b: Results) -> bool:
    """Return whether both were measured by the same kind of processor and number of cores.

    By another NumPy too: its product may take another time then, but that is no sign that the machine did not.
    """

    def facts(of: Results) -> tuple[object, ...]:
        cpu = of.data["machine"]["cpu"]
        return cpu["model"], cpu["cores"], cpu.get("quota")

    return facts(a) == facts(b)


def warnings_of(results: Results) -> tuple[str, ...]:
    """Return what makes the numbers of a file doubtful, and the cells that did not run."""
    found = list(results.data["noise"]["warnings"])
    for cell in results.data["cells"]:
        problem = cell["problem"]
        if problem is not None and not any(problem in warning for warning in found):
            found.append(f"{cell_name(cell)} did not run: {problem}")
    return tuple(found)


def cell_name(cell: Mapping[str, Any] | Cell) -> str:
    """Describe a cell in a few words, as in "onnxruntime fp32 cpu 2 threads"."""
    name, threads = f"{cell['backend']} {cell['precision']} {cell['device']}", cell["threads"]
    if isinstance(threads, str):  # of a comparison by threads: "1 to 2"
        return f"{name} {threads} threads"
    return name if threads is None else f"{name} {count(threads, 'thread')}"


def _other_work(a: Results, b: Results) -> Iterator[str]:
    first, second = a.data["bundle"], b.data["bundle"]
    if not share_a_tokenizer(a, b):
        yield f"the bundles are of different tokenizers: {first['folder']} and {second['folder']} share no fingerprint"
    for key, ours, theirs in _changes(first["spec"], second["spec"]):
        yield f"spec.{key} is {ours} in A and {theirs} in B"
    image_set, others = a.data["images"], b.data["images"]
    if (image_set["sha256"], image_set["count"]) != (others["sha256"], others["count"]):
        yield (
            f"the images differ: {image_set['count']} of {image_set['source'] or 'memory'} in A, "
            f"{others['count']} of {others['source'] or 'memory'} in B"
        )


def _other_circumstances(a: Results, b: Results) -> Iterator[str]:
    first, second = a.data, b.data
    if first["bundle"]["manifest_sha256"] != second["bundle"]["manifest_sha256"]:
        yield "the bundles are different exports: their manifests have other checksums"
    for key, ours, theirs in _changes(_facts(first["machine"]), _facts(second["machine"])):
        yield f"{key} is {ours} in A and {theirs} in B"
    if first["coda_runtime"] != second["coda_runtime"]:
        yield f"coda_runtime is {first['coda_runtime']} in A and {second['coda_runtime']} in B"
    for key, ours, theirs in _changes(first["machine"]["libraries"], second["machine"]["libraries"]):
        yield f"{key} is {ours} in A and {theirs} in B"
    theirs_by_name = {cell_name(cell): cell for cell in second["cells"]}
    for cell in first["cells"]:
        other = theirs_by_name.get(cell_name(cell))
        if other is not None and cell["problem"] is None is other["problem"] and _files(cell) != _files(other):
            yield f"{cell_name(cell)} ran {_files(cell)} in A and {_files(other)} in B"


def _facts(machine: Machine) -> dict[str, Any]:
    """Return what decides how fast a machine is. Clocks of the moment are left out: they differ from run to run."""
    cpu = machine["cpu"]
    facts: dict[str, Any] = {
        "the processor": cpu["model"],
        "the number of cores": cpu["cores"],
        "the quota of processors": cpu.get("quota"),
        "the highest clock in MHz": cpu["max_frequency_mhz"],
        "the frequency governor": cpu["governor"],
        "the memory in bytes": machine["memory_bytes"],
        "the platform": machine["platform"],
        "Python": machine["python"],
    }
    for gpu in machine["gpus"]:
        name = f"GPU {gpu['index']}"
        facts[name] = f"{gpu['name']}, driver {gpu['driver']}"
        facts[f"the power limit of {name} in watts"] = gpu.get("power_limit_w")
        facts[f"ECC of {name}"], facts[f"MIG of {name}"] = _on(gpu.get("ecc")), _on(gpu.get("mig"))
    return facts


def _on(mode: bool | None) -> str | None:
    return None if mode is None else "on" if mode else "off"


def _files(cell: Cell) -> str:
    found = [
        f"{of['part']} {of['format']} {of['precision']} by {of['backend']} on {of['device']}"
        for of in cell["artifacts"]
    ]
    return "; ".join(sorted(found))


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield key, _word(a.get(key)), _word(b.get(key))


def _word(value: object) -> str:
    return "not there" if value is None else str(value)
