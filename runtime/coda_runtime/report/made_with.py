"""The end of a page: what it was made with, so that it can be made again, or told from another."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from ..io.counts import count
from ..machine.processors import describe_cpu
from ..requirements import installed_version
from .markup import Child, Markup, el, join


def footer(facts: Mapping[str, str], *more: Child) -> Markup:
    """Return a page's ``footer``: ``facts`` by name, then what else is to be said."""
    rows = [join(el("dt", name), el("dd", text, class_="name")) for name, text in facts.items()]
    return el("footer", el("h2", "Made with"), el("dl", rows, class_="facts"), *more)


def facts_of_now(command: Sequence[str], packages: Iterable[str]) -> dict[str, str]:
    """Return the command, the time in UTC, the machine, the system, and the versions of packages installed here."""
    cpu = describe_cpu()
    found = ((name, installed_version(name)) for name in packages)
    return {
        "Command": shlex.join(command),
        "Made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Machine": f"{cpu['model'] or cpu['machine']}, {count(cpu['cores'], 'core')}",
        "System": f"{platform.platform()}, Python {platform.python_version()}",
        "Versions": ", ".join(f"{name} {version}" for name, version in found if version is not None),
    }
