"""`python -m coda_runtime.cli`, the same as `coda`."""

from . import main

main()
