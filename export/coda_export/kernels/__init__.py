"""The quantizer's GPU kernels: Triton source, and its compilation to PTX. Importing this imports no Triton."""

from coda_export.kernels.blocks import DEFAULT_BLOCKS, Blocks
from coda_export.kernels.compile import DEFAULT_TARGET, PTX_ISA, compile_quantizer, import_triton
from coda_export.kernels.files import SEARCH_FILE, write_kernels, write_search
from coda_export.kernels.tables import search_tables

__all__ = [
    "DEFAULT_BLOCKS",
    "DEFAULT_TARGET",
    "PTX_ISA",
    "SEARCH_FILE",
    "Blocks",
    "compile_quantizer",
    "import_triton",
    "search_tables",
    "write_kernels",
    "write_search",
]
