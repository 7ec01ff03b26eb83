"""`coda doctor`."""

from __future__ import annotations

from typing import Any

import click

from ..io.counts import count
from .base import command as coda_command
from .base import json_option, print_json, table


@coda_command(name="doctor", example="coda doctor\ncoda doctor --json")
@json_option
def command(as_json: bool) -> None:
    """Report the engine libraries, devices and conflicts found here, and what to install."""
    from ..diagnose import diagnose

    report = diagnose()
    if as_json:
        print_json(report)
        return
    table(_rows(report))
    click.echo()
    for line in report["advice"] or ["nothing is missing"]:
        click.echo(f"- {line}")


def _rows(report: dict[str, Any]) -> list[tuple[str, object]]:
    cpu, nvidia, ort = report["cpu"], report["nvidia"], report["onnxruntime"]
    rows: list[tuple[str, object]] = [
        ("python", f"{report['python']} ({report['executable']})"),
        ("platform", report["platform"]),
        (
            "cpu",
            f"{cpu['model'] or cpu['machine']}, {count(cpu['cores'], 'core')}, {' '.join(cpu['flags'])}".rstrip(", "),
        ),
        ("coda-runtime", report["coda-runtime"] or "not installed (run from its source)"),
        ("coda-deploy", report["coda-deploy"] or "not installed"),
        ("numpy", report["numpy"]),
        *report["engines"].items(),
    ]
    if ort is None:
        rows.append(("onnxruntime", "not installed"))
    else:
        failed = report["not_starting"]
        shown = (f"{name} (does not start)" if name in failed else name for name in ort["providers"])
        rows.append(("providers", ort["problem"] or ", ".join(shown)))
    for plugin in report["plugins"]:
        devices = plugin["devices"] or ["no device here"]
        devices = plugin["problem"] or ", ".join([*plugin["providers"], *devices])
        rows.append((plugin["name"], f"{plugin['version']}: {devices}"))
    if report["openvino"] is not None and report["openvino"]["problem"] is not None:
        rows.append(("openvino", report["openvino"]["problem"]))
    rows += [(name, _told(found)) for name, found in report["precisions"].items()]
    names = ", ".join(nvidia["names"]) or f"{count(nvidia['devices'], 'device')}"
    rows.append(
        (
            "nvidia",
            nvidia["problem"] or f"{names}, driver {nvidia['driver'] or 'not found'}, CUDA {nvidia['cuda'] or 'none'}",
        )
    )
    tuning = report["tuning"]
    if tuning["records"]:
        rows.append(("coda tune", f"{tuning['records']} recorded in {tuning['folder']}"))
    rows += [(name, version or "not installed") for name, version in report["libraries"].items()]
    return rows


def _told(found: dict[str, Any]) -> str:
    """Return what is to be said of a precision that needs instructions of the processor."""
    instructions, by = found["instructions"], ", ".join(found["by"]) or "nothing that is installed"
    if instructions is None:
        return f"by {by}; this system does not tell what the processor has for it"
    if found["exact"] is False:
        return f"by {by}, slowly: sums of bytes overflow on this processor, and are taken another way"
    if not instructions:
        return "this processor has no instructions for it: slower than fp32, or not at all"
    return f"{' '.join(instructions)}, by {by}"
