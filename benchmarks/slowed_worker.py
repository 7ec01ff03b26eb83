"""A worker of `coda bench` one part of whose bundle takes longer: what a comparison has to find.

``python -P benchmarks/slowed_worker.py decoder 0.05`` reads its case as `coda_runtime.bench.worker` does. After each
run of the part it computes for 5 % of what the run took.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from coda_runtime import loading
from coda_runtime.backends.base import Session
from coda_runtime.bench import worker


class SlowedSession:
    """A session whose runs take ``1 + share`` times as long."""

    def __init__(self, session: Session, share: float) -> None:
        self.device, self.batch = session.device, session.batch
        self._session, self._share = session, share

    def run(self, batch: Any) -> Any:
        """Run, and go on for a share of the time it took."""
        start = time.perf_counter()
        out = self._session.run(batch)
        end = time.perf_counter()
        until = end + (end - start) * self._share
        while time.perf_counter() < until:
            pass
        return out

    def close(self) -> None:
        """Free the session."""
        self._session.close()


def main() -> None:
    """Measure a case with the named part slowed."""
    part, share = sys.argv[1], float(sys.argv[2])
    opened, kept = loading.open_tokenizer, []

    def open_slowed(*args: Any, **options: Any) -> Any:
        tok = opened(*args, **options)
        slowed = tok.replaced_parts(lambda name, session: SlowedSession(session, share) if name == part else session)
        slowed.__enter__()
        kept.append(slowed)  # for as long as the process lives
        return tok

    loading.open_tokenizer = open_slowed
    worker.main()


if __name__ == "__main__":
    main()
