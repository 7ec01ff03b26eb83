"""`coda tune`: what may run here is timed as `coda bench` times it, and the best of it is recorded for `load`."""
