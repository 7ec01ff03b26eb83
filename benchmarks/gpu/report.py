"""The measurement as a short table for a terminal, and as Markdown for docs/gpu.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from coda_runtime.bench.statistics import KNOWN_FROM

Row = dict[str, Any]
_WHAT = {
    ("encoder", "device"): "encoder: images to latent, on the GPU",
    ("quantizer", "device"): "quantizer: latent to ids, on the GPU",
    ("decoder", "device"): "decoder: ids to images, on the GPU",
    ("encode", "host"): "encode: images to ids, numpy to numpy",
    ("decode", "host"): "decode: ids to images, numpy to numpy",
    ("encode", "dlpack"): "encode: images to ids, torch tensors on the GPU",
    ("decode", "dlpack"): "decode: ids to images, torch tensors on the GPU",
}


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, str, dict[tuple[str, str], dict[int, Row]]]]:
    """(shape, what, {(contender, precision): {batch: row}}) in the order of the plan."""
    for shape in dict.fromkeys(row["shape"] for row in rows):
        for where, what in _WHAT.items():
            found: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
            for row in rows:
                if row["shape"] == shape and (row["operation"], row["clock"]) == where:
                    found[row["contender"], row["precision"]][row["batch"]] = row
            if found:
                yield shape, what, found


def _parity(row: Row) -> str:
    parity = row.get("parity", {})
    if "psnr" in parity:
        return "identical" if parity["psnr"] is None else f"{parity['psnr']:.1f} dB"
    return f"{parity['step_agreement']:.2%}" if "step_agreement" in parity else "-"


def _last(found: dict[int, Row]) -> Row | None:
    """The row of the largest batch that ran."""
    ran = [row for _, row in sorted(found.items()) if "median_ms" in row]
    return ran[-1] if ran else None


def _share(row: Row) -> str:
    share = row.get("floor_share")
    return "-" if share is None else f"{share:.0%}"


def _reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What did not run, by its reason: "contender precision operation/clock batch ..."."""
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        if "reason" in row:
            name = f"{row['shape']} {row['contender']} {row['precision']} {row['operation']}/{row['clock']}"
            found[row["reason"]][name].add(row["batch"])
    return {
        reason: [f"{name} at {','.join(map(str, sorted(batches)))}" for name, batches in names.items()]
        for reason, names in found.items()
    }


def _shared(rows: Sequence[Row]) -> list[str]:
    """Who ran how many nodes of a graph, where a provider could leave some to another."""
    found = []
    for row in rows:
        if row.get("nodes"):
            name = f"{row['shape']} {row['contender']} {row['precision']} {row['operation']}/{row['clock']}"
            found.append(f"{name}: {', '.join(f'{count} {where}' for where, count in row['nodes'].items())}")
    return list(dict.fromkeys(found))


def table(result: dict[str, Any]) -> str:
    """Median milliseconds by batch size, parity and share of the lower bound at the largest that ran."""
    rows, batches = result["rows"], sorted(result["settings"]["batches"])
    lines = []
    for shape, what, found in _groups(rows):
        lines.append(f"{shape} {what}: ms by batch {' '.join(map(str, batches))}; parity, share of bound, MiB")
        for (contender, precision), by_batch in found.items():
            last = _last(by_batch)
            if last is None:
                continue
            cells = " ".join(f"{_median(by_batch.get(batch)):>9}" for batch in batches)
            tail = f"{_parity(last):>10} {_share(last):>5} {last.get('memory_mib', '-'):>6}"
            lines.append(f"  {contender:<18}{precision:<5}{cells} {tail}")
    shared = _shared(rows)
    lines += ["nodes by who ran them:", *(f"  {line}" for line in shared)] if shared else []
    reasons = _reasons(rows)
    lines += ["not run:"] if reasons else []
    for reason, names in reasons.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        lines.append(f"  {'; '.join(names[:2])}{more}: {reason[:200]}")
    machine = result["machine"]
    lines.append(f"{machine['device']}, {machine['ceilings']}, {machine['libraries']}")
    return "\n".join(lines)


def _median(row: Row | None) -> str:
    return "-" if row is None or "median_ms" not in row else f"{row['median_ms']:.3f}"


def markdown(result: dict[str, Any]) -> str:
    """Tables for docs/gpu.md: the median in milliseconds, with the repeats it rests on; what did not run, and why."""
    rows, batches, machine = result["rows"], sorted(result["settings"]["batches"]), result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    smi, limits = machine.get("nvidia_smi_after_ceilings", {}), machine["ceilings"]
    driver = f", driver {smi['driver_version']}, {smi['clocks.sm']} of {smi['clocks.max.sm']}" if smi else ""
    lines = [
        f"{machine['device']}{driver}; {machine['date']}. {versions}.",
        "",
        f"Ceilings, measured: bf16 {limits['bf16_flops'] / 1e12:.1f} and float32 {limits['fp32_flops'] / 1e12:.1f} "
        f"TFLOP/s, {limits['bytes_per_second'] / 1e12:.2f} TB/s.",
    ]
    for shape, what, found in _groups(rows):
        lines += ["", f"### {shape}, {what}", ""]
        lines.append(f"| | | {' | '.join(f'batch {batch}' for batch in batches)} | parity | of the bound | MiB |")
        lines.append("| --- " * (len(batches) + 5) + "|")
        for (contender, precision), by_batch in found.items():
            last = _last(by_batch)
            cells = " | ".join(_cell(by_batch.get(batch)) for batch in batches)
            tail = "- | - | -" if last is None else f"{_parity(last)} | {_share(last)} | {last.get('memory_mib', '-')}"
            lines.append(f"| {contender} | {precision} | {cells} | {tail} |")
    if shared := _shared(rows):
        lines += ["", "### Nodes, by who ran them", "", *(f"- {line}" for line in shared)]
    reasons = _reasons(rows)
    lines += ["", "### Not run", ""] if reasons else []
    for reason, names in reasons.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"- {'; '.join(names[:4])}{more}: {reason}")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None or "median_ms" not in row:
        return "not run"
    chunks = f", {row['pieces']} pieces" if "pieces" in row else ""
    # Earlier results have a 99th percentile of however few repeats.
    known = row["repeats"] >= KNOWN_FROM[99] and row["p99_ms"] is not None
    return f"{row['median_ms']:.2f} ({row['repeats']}{chunks}" + (f", p99 {row['p99_ms']:.2f})" if known else ")")
