"""From what `load` was given to a folder: a local path, or a bundle on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import BundleNotFoundError, HubError, MissingDependencyError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def find_bundle(path_or_hub_id: str | os.PathLike[str]) -> Path:
    """The bundle's folder; "org/name" is fetched from the Hub when neither it nor the folder `org` exists here.

    Raises BundleNotFoundError, HubError, MissingDependencyError.
    """
    if not isinstance(path_or_hub_id, (str, os.PathLike)) or not os.fspath(path_or_hub_id):
        raise BundleNotFoundError(f"{path_or_hub_id!r} names no bundle; expected a folder's path or a Hub id")
    path = Path(path_or_hub_id).expanduser()
    if path.exists():
        return path
    text = os.fspath(path_or_hub_id)
    # A mistyped path has its parent here; asking the Hub for it would take long and explain nothing.
    if not isinstance(path_or_hub_id, str) or _HUB_ID.fullmatch(text) is None or path.parent.exists():
        raise BundleNotFoundError(
            f"there is no folder {text!r}; expected a bundle, which `coda export` makes, or a Hub id such as org/name"
        )
    return _fetch(text)


def _fetch(repo: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingDependencyError(
            f"there is no folder {repo!r} here, and fetching it from the Hugging Face Hub needs huggingface_hub", "hub"
        ) from error
    try:
        return Path(snapshot_download(repo))
    except RepositoryNotFoundError as error:
        raise HubError(
            f"there is no folder {repo!r} here, and no such model on the Hugging Face Hub; check the name, "
            "or log in with `hf auth login` if it is private"
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"there is no folder {repo!r} here, and the Hugging Face Hub cannot be reached; "
            "check the path or the network, or copy the bundle here and pass its path"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HubError(f"the Hugging Face Hub did not deliver {repo!r} ({reason}); try again later") from error
