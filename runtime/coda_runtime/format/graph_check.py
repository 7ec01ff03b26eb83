"""What an ONNX file says before an engine library reads it: self-contained, harmless operators, an end to its work.

Refused is what a bundle's graph may not be: weights in other files (an engine library would open whatever path stands
there), operators that are not on the list of graph_operators.py, loops without a constant end, and bytes that are no
ONNX model. graph_model.py reads the file, graph_rules.py judges it.
"""

from __future__ import annotations

import hashlib
import mmap
from functools import cache
from pathlib import Path

from ..errors import ArtifactError, one_line
from ..io import remembered
from ..io.protobuf_wire import Buffer, WireError
from ..io.regular_files import open_regular

_JUDGES = ("graph_check", "graph_model", "graph_operators", "graph_rules", "graph_values", "../io/protobuf_wire")
"""The modules that decide: what passed one version of them need not pass another."""


def check_graph_once(path: Path, read: bytes, sha256: str) -> None:
    """Do what `check_graph` does, unless bytes of this SHA-256 passed before: this user's cache remembers.

    Raises ArtifactError.
    """
    rules, key = _rules(), f"graph {sha256}"
    if rules is None or _has_foreign_name(path) or remembered.recall(key) != rules:
        check_graph(path, read)
        if rules is not None:
            remembered.remember(key, rules)


def check_graph(path: Path, read: bytes | None = None) -> None:
    """Raise ArtifactError unless a file is a self-contained ONNX model that a bundle may hold. Takes milliseconds.

    `read` are the file's bytes where somebody has read them: then these are looked at, and the file is not opened.
    That is no proof that an engine library reads it safely, nor that it computes what its part promises.
    """
    if _has_foreign_name(path):
        raise _rejected(path, "is named as onnxruntime's own format; expected an ONNX file")
    try:
        if read is not None:
            refused = _refused(read)
        else:
            with open_regular(path) as file:
                if file.seek(0, 2) == 0:
                    raise WireError("it is empty")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    refused = _refused(data)
    except WireError as error:
        raise ArtifactError(f"{path} is not an ONNX model: {error}; download or export the bundle again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({one_line(error)}); check its permissions") from error
    if refused is not None:
        raise _rejected(path, refused)


def _has_foreign_name(path: Path) -> bool:
    # By this suffix onnxruntime reads a format of its own, which nobody has looked at here.
    return path.suffix.lower() == ".ort"


@cache
def _rules() -> list[object] | None:
    """Return what names the rules of this installation, None where its files cannot be read (in an archive)."""
    try:
        found = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in _JUDGES]
    except OSError:
        return None
    return [hashlib.sha256(b"".join(found)).hexdigest()]


def _refused(data: Buffer) -> str | None:
    """Return what a model does that it may not, None for one that may be loaded. Raises WireError for no model."""
    # Here, since a load whose graphs all passed before needs none of it.
    from .graph_model import RefusedError, read_model
    from .graph_rules import check_model

    if len(data) == 0:
        raise WireError("it is empty")
    try:
        check_model(read_model(data))
    except RefusedError as error:
        return str(error)
    return None


def _rejected(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} {what}; export it again, and do not load it from a source that you do not trust")
