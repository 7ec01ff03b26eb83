"""coda_runtime: an exported CODA tokenizer, from images to ids and back, with numpy and one engine library.

import coda_runtime

tok = coda_runtime.load("bundle")
ids = tok.encode(["photo.jpg"])   # int32 [1, L]
images = tok.decode(ids)          # uint8 [1, H, W, 3]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    ArtifactError,
    BackendError,
    BuildError,
    BundleError,
    BundleNotFoundError,
    ChecksumError,
    ClosedError,
    CodaError,
    DeviceError,
    DeviceMemoryError,
    EngineMismatchError,
    FormatVersionError,
    HubError,
    ImageError,
    InputError,
    ManifestError,
    MissingDependencyError,
    OutputError,
    ParityError,
    TokenError,
)
from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .accumulator import Accumulator
    from .backends.base import LoadOptions
    from .format.manifest import Artifact, Manifest
    from .format.spec import Spec
    from .loading import load
    from .streaming import Encoded
    from .tokenizer import LoadedArtifact, Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Accumulator",
    "Artifact",
    "ArtifactError",
    "BackendError",
    "BuildError",
    "BundleError",
    "BundleNotFoundError",
    "ChecksumError",
    "ClosedError",
    "CodaError",
    "DeviceError",
    "DeviceMemoryError",
    "Encoded",
    "EngineMismatchError",
    "FormatVersionError",
    "HubError",
    "ImageError",
    "InputError",
    "LoadOptions",
    "LoadedArtifact",
    "Manifest",
    "ManifestError",
    "MissingDependencyError",
    "OutputError",
    "ParityError",
    "Spec",
    "TokenError",
    "Tokenizer",
    "__version__",
    "load",
]

# Imported at first use: `import coda_runtime` is paid by every process that merely might load a bundle.
_LAZY = {
    "Accumulator": "accumulator",
    "Artifact": "format.manifest",
    "Encoded": "streaming",
    "LoadOptions": "backends.base",
    "LoadedArtifact": "tokenizer",
    "Manifest": "format.manifest",
    "Spec": "format.spec",
    "Tokenizer": "tokenizer",
    "load": "loading",
}


__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
