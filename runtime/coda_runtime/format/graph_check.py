"""What an ONNX file says before an engine library reads it: self-contained, harmless operators, an end to its work.

Refused is what a bundle's graph may not be: weights in other files (an engine library would open whatever path stands
there), operators that are not on the list of graph_operators.py, loops without a constant end, and bytes that are no
ONNX model. graph_model.py reads the file, graph_rules.py judges it.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from ..errors import ArtifactError, one_line
from ..io.protobuf_wire import Buffer, WireError
from ..io.regular_files import open_regular
from .graph_model import RefusedError, read_model
from .graph_rules import check_model


def check_graph(path: Path, read: bytes | None = None) -> None:
    """Raise ArtifactError unless a file is a self-contained ONNX model that a bundle may hold. Takes milliseconds.

    `read` are the file's bytes where somebody has read them: then these are looked at, and the file is not opened.
    That is no proof that an engine library reads it safely, nor that it computes what its part promises.
    """
    # By this suffix onnxruntime reads a format of its own, which nobody has looked at here.
    if path.suffix.lower() == ".ort":
        raise _rejected(path, "is named as onnxruntime's own format; expected an ONNX file")
    try:
        if read is not None:
            _check(read)
            return
        with open_regular(path) as file:
            if file.seek(0, 2) == 0:
                raise WireError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check(data)
    except RefusedError as error:
        raise _rejected(path, str(error)) from error
    except WireError as error:
        raise ArtifactError(f"{path} is not an ONNX model: {error}; download or export the bundle again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({one_line(error)}); check its permissions") from error


def _check(data: Buffer) -> None:
    if len(data) == 0:
        raise WireError("it is empty")
    check_model(read_model(data))


def _rejected(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} {what}; export it again, and do not load it from a source that you do not trust")
