"""A worker of `coda bench` that may use some processors only, or so much of their time, as in a container.

``python -P benchmarks/limited_worker.py --cpus 0 --group /sys/fs/cgroup/...`` reads its case as
`coda_runtime.bench.worker` does, once it has bound itself to the processors and has moved into the control group.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from coda_runtime.bench import worker


def main() -> None:
    """Measure a case inside the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus")
    parser.add_argument("--group", type=Path)
    args = parser.parse_args()
    if args.cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in args.cpus.split(",")})
    if args.group is not None:
        (args.group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")
    worker.main()


if __name__ == "__main__":
    main()
