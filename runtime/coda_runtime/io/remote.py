"""Local paths and URLs alike: the file system that a path lies on."""

from __future__ import annotations

import os
import re
from typing import Any

from ..errors import InputError, MissingDependencyError


def open_filesystem(where: str) -> tuple[Any, str]:
    """Open a path or a URL (s3://, gs://, https://, ...) -> (its fsspec file system, the path on it).

    Local paths become absolute. Raises MissingDependencyError naming the package that speaks the protocol, InputError
    for an unknown one.
    """
    require("fsspec")
    from fsspec.core import url_to_fs

    if not where:
        raise InputError("an empty path names nothing; expected a local path or a URL")
    try:
        fs, path = url_to_fs(os.path.expanduser(where))  # noqa: PTH111 - a URL is no Path
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        package = cause.name or "fsspec"
        raise MissingDependencyError(f"{redacted(where)} needs {package}, which is not installed", package) from error
    except ValueError as error:
        raise InputError(
            f"{redacted(where)!r} cannot be opened ({error}); expected a local path or a URL of fsspec"
        ) from error
    return fs, str(path)


def is_local(fs: Any) -> bool:
    """Return whether a file system is this machine's own."""
    protocol = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocol


def require(*modules: str) -> None:
    """Raise MissingDependencyError unless what the extra `bulk` brings can be imported."""
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"bulk tokens need {', '.join(missing)}, which is not installed", extra="bulk")


def redacted(where: str) -> str:
    """Return a URL, or a chain of them, without passwords and queries, which may be secrets: results are passed on."""
    return "::".join(map(_redacted, where.split("::")))


def _redacted(where: str) -> str:
    scheme, found, rest = where.partition("://")
    if not found:
        return where
    host, slash, path = rest.partition("/")
    if scheme in ("http", "https"):  # elsewhere ? and # are characters of names and patterns
        path = re.split("[?#]", path, maxsplit=1)[0]
        host = re.split("[?#]", host, maxsplit=1)[0]
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
