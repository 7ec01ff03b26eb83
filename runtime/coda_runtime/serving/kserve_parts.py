"""kserve 0.21, imported without its reading our command line, and what of its server is done otherwise here.

kserve's ModelServer listens on all addresses, offers loading and unloading of models to whoever asks, answers with its
exceptions' words, reads bodies of any length and turns binary tensors into Python lists. Its parts are kept where they
speak the protocol: data plane, endpoints of health and metadata, the gRPC service and its messages, Model.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from .. import __version__
from ..errors import MissingDependencyError
from .errors import RequestError
from .metrics import MODELS

# kserve.model_server parses sys.argv when it is imported: our options would be its.
_argv, sys.argv = sys.argv, sys.argv[:1]
try:
    import uvicorn
    from kserve.errors import ModelNotReady, ServerNotReady
    from kserve.model import Model
    from kserve.model_server import ModelServer
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.rest.v2_endpoints import V2Endpoints
except ImportError as error:
    raise MissingDependencyError(f"`coda serve` needs kserve ({error})", extra="serve") from error
finally:
    sys.argv = _argv

__all__ = [
    "InferenceServicer",
    "Model",
    "ModelNotReady",
    "ModelServer",
    "Plane",
    "QuietServer",
    "ServerNotReady",
    "V2Endpoints",
    "add_GRPCInferenceServiceServicer_to_server",
    "messages",
]


class Plane(DataPlane):  # type: ignore[misc] # kserve has no types
    """The data plane under our name; `is_ready` is the server's own state."""

    is_ready = False

    def metadata(self) -> dict[str, Any]:
        """Name, version and extensions of the server."""
        return {"name": "coda-runtime", "version": __version__, "extensions": ["binary_tensor_data"]}

    async def ready(self) -> bool:
        """Return whether inference requests are taken."""
        return self.is_ready

    def get_model_from_registry(self, name: str) -> Any:
        """Return the model of this name. Raises RefusedError."""
        model = self.model_registry.get_model(name)
        if model is None:
            raise RequestError("unknown", f"there is no model {name!r}; there are {' and '.join(MODELS)}")
        return model

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Return whether a model is ready. Raises RefusedError."""
        return bool(self.get_model_from_registry(model_name).ready)


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: ours drain both protocols."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield
