"""The folded search as the runtime's table."""

from __future__ import annotations

from coda_export.folding.search import FoldedSearch
from coda_runtime.backends.ptx import SearchTables


def search_tables(search: FoldedSearch) -> SearchTables:
    """Return the table as NumPy arrays, to write with ``SearchTables.save``; W is the bundle's codebook."""
    spread = None if search.spread is None else search.spread.numpy()
    return SearchTables(search.table.numpy(), spread, search.eps)
