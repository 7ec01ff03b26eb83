"""What a training says while it runs: a bar on a terminal, lines in a pipe, and every figure in log.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coda_runtime.errors import OutputError, one_line
from coda_runtime.io.atomic_files import staged_file
from coda_runtime.io.json_fields import parse_json

LOG = "log.jsonl"
# What a line shows, in this order; log.jsonl has all.
SHOWN = ("total", "psnr", "lpips", "gan", "critic", "kl", "vq", "entropy", "utilization", "residual", "seldom chosen")


class Report:
    """Talks on stderr and writes ``out/log.jsonl``; on other processes than the first it does neither."""

    def __init__(self, out: Path, *, active: bool = True) -> None:
        self._out, self._active = out, active
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print one line, safe on a terminal: names of images may hold anything."""
        if not self._active:
            return
        text = "".join(char if char.isprintable() else "\ufffd" for char in text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show on a terminal that something is done that has no steps to count."""
        with self.phase(text, None):
            yield

    @contextmanager
    def phase(self, name: str, total: int | None, start: int = 0) -> Iterator[Phase]:
        """Show the steps from ``start`` to ``total`` as they go by; None where the total is unknown."""
        if not (self._active and sys.stderr.isatty()):
            yield Phase(self, name, total, start)
            return
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[metrics]}", markup=False),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            self._bar, self._task = bar, bar.add_task(name, total=total, completed=start, metrics="")
            try:
                yield Phase(self, name, total, start)
            finally:
                self._bar = None

    def restart_log(self, step: int) -> None:
        """Forget lines after ``step``: they are of steps that a kill undid."""
        path = self._out / LOG
        if not self._active or not path.exists():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.splitlines(keepends=True) if (found := _figures(line)) and found["step"] <= step]
        with staged_file(path) as file:
            file.write_text("".join(kept), encoding="utf-8")

    def last(self) -> dict[str, Any]:
        """Return the last line of log.jsonl; empty where there is none, or it is not one of a training."""
        try:
            lines = (self._out / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        return _figures(lines[-1]) if lines else {}

    def write(self, metrics: dict[str, Any]) -> None:
        """Write one line of log.jsonl. Raises ``OutputError``."""
        if not self._active:
            return
        try:
            with (self._out / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise OutputError(f"{self._out / LOG} cannot be written ({one_line(error)}); make room") from error


class Phase:
    """Steps of one kind, with their speed."""

    def __init__(self, report: Report, name: str, total: int | None, start: int) -> None:
        self._report, self._name, self._total = report, name, total
        self._begun, self._start = time.monotonic(), start

    def advance(self, step: int) -> None:
        """Note that ``step`` steps are done."""
        if self._report._bar is not None:
            self._report._bar.update(self._report._task, completed=step)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show figures beside the bar, or as a line where there is none."""
        text = "  ".join(f"{name} {_short(metrics[name])}" for name in SHOWN if metrics.get(name) is not None)
        if "images_per_second" in metrics:
            text += f"  {metrics['images_per_second']:.1f} images/s"
        if self._report._bar is not None:
            self._report._bar.update(self._report._task, completed=step, metrics=text)
            return
        left = ((self._total or step) - step) * (time.monotonic() - self._begun) / max(1, step - self._start)
        parts = (f"{self._name} {step}/{self._total or '?'}", text, f"{clock(left)} left")
        self._report.say("  ".join(part for part in parts if part))


def _figures(line: str) -> dict[str, Any]:
    """Return one line of log.jsonl; empty for what is none, as the last one of a killed run, which may be cut."""
    try:
        found = parse_json(line)
    except ValueError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        return {}
    return found if "step" in found else {}


def _short(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: 1:02:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
