"""huggingface_hub, imported when it is needed, and its failures in our words."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..errors import CodaError, HubError, MissingDependencyError, one_line
from .answers import watching
from .names import HubName

_DISK = frozenset({errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG})
"""Why the cache cannot be written; those of _PATH only of a path, since a socket may be denied too."""


def require_hub(name: HubName) -> Any:
    """Import huggingface_hub. Raises MissingDependencyError."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} looks like a name on the Hugging Face Hub, which needs huggingface_hub", extra="hub"
        ) from error
    return huggingface_hub


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into a HubError that says what to do."""
    try:
        yield
    except CodaError:
        raise
    except Exception as error:  # its own errors, those of its HTTP library, of the disk, and of an odd server
        # Of an upload, the cause is what was wrong.
        cause = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
        raise HubError(_explain(cause, name)) from error


@contextmanager
def downloading(name: HubName, max_bytes: int) -> Iterator[None]:
    """Do as `explained` does, for the download of a file of at most so many bytes, and refuse odd answers."""
    with explained(name), watching(name, max_bytes):
        yield


@contextmanager
def quiet_in_a_pipe() -> Iterator[None]:
    """Hide the progress bars of an upload if stderr is no terminal; those of a download know it themselves."""
    bars: Any = import_module("huggingface_hub.utils")
    if sys.stderr.isatty() or bars.are_progress_bars_disabled() or "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def is_unreachable(error: Exception) -> bool:
    """Return whether the Hub cannot be asked now: no network, no answer in time, or an answer that it is down."""
    errors = _errors()
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error) >= 500
    if _of_the_disk(error) is not None:
        return False
    return isinstance(error, (errors.HTTPError, OSError))


def is_offline(error: Exception) -> bool:
    """Return whether the network was not even tried, because HF_HUB_OFFLINE says so."""
    return isinstance(error, _errors().OfflineModeIsEnabled)


def _explain(error: Exception, name: HubName) -> str:
    errors, page = _errors(), _page(name)
    if (full := _of_the_disk(error)) is not None:
        return (
            f"{name} cannot be kept in the Hub's cache {_cache()} ({one_line(full)}); make room there, or set "
            "HF_HOME to a folder that can be written"
        )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms on {page}, and log in with the same account: hf auth login (or set "
            "HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no model {name.repo!r} on the Hugging Face Hub, or it is private; check the name, or log in: "
            "hf auth login (or set HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.repo} has no revision {name.revision!r}; {page}/tree/main lists its branches and tags"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so the Hub is not asked for {name}; unset it"
    if isinstance(error, errors.HfHubHTTPError) and _status(error) in (401, 403):
        return (
            f"the Hub rejects your token for {name} ({one_line(error)}); log in with an account that may do this: "
            "hf auth login (or set HF_TOKEN)"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) or (
        is_unreachable(error) and not isinstance(error, (errors.HfHubHTTPError, PermissionError))
    ):
        return (
            f"the Hugging Face Hub did not answer for {name} ({one_line(error)}); check the network and HF_ENDPOINT, "
            "or copy its files here and pass their folder"
        )
    return f"the Hugging Face Hub did not do what was asked for {name} ({one_line(error)}); try again later"


def _errors() -> Any:
    # Its HTTPError, whichever HTTP library this version stands on, is not exported by name.
    return import_module("huggingface_hub.errors")


def _of_the_disk(error: BaseException) -> OSError | None:
    """Return the failure of this machine's disk that an error is, or came from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        # A path that was opened, or a number that no network gives: HTTP libraries raise OSErrors too.
        if isinstance(found, OSError) and (found.errno in _DISK or (found.errno in _PATH and found.filename)):
            return found
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return None


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _page(name: HubName) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name.repo}"


def _status(error: Any) -> int:
    return int(getattr(error.response, "status_code", None) or 0)
