"""The driver's errors, as coda's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import BackendError, CodaError, DeviceMemoryError, one_line


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Raise DeviceMemoryError where memory ran out inside, BackendError for other errors of the CUDA driver."""
    try:
        yield
    except CodaError:
        raise
    except Exception as error:  # cuda.core's error class is private, and plain RuntimeErrors come too
        text = one_line(error)
        # The driver's name of the error is the only thing that tells it: CUDA_ERROR_OUT_OF_MEMORY.
        if isinstance(error, MemoryError) or "OUT_OF_MEMORY" in text:
            raise DeviceMemoryError(
                f"memory ran out while {doing} ({text}); use smaller batches, or free memory: `nvidia-smi` lists "
                "who holds it"
            ) from error
        raise BackendError(
            f"the CUDA driver failed while {doing} ({text}); after such an error the process may have lost the GPU: "
            "start it again, and see `coda doctor`"
        ) from error
