"""Pictures for bulk runs, and one Ray for all tests of this folder."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="coda-runtime[bulk] is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

import coda_runtime
from tests.runtime import tiny

Ids = dict[str, list[int]]


def save_images(folder: Path, count: int, *, scale: int = 1, groups: int = 3) -> None:
    """PNG files `g0/000.png`, ... each of another picture, 60 x 40 times `scale`."""
    for number, image in enumerate(tiny.photos(count, 40, 60)):
        path = folder / f"g{number % groups}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((60 * scale, 40 * scale)).save(path, compress_level=1)


def png(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def save_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def expected(bundle: Path, folder: Path) -> Ids:
    """{key: ids} of a folder's readable pictures, by the runtime in this process."""
    files = sorted(path for path in folder.rglob("*.png") if path.read_bytes()[:4] == b"\x89PNG")
    with coda_runtime.load(bundle) as tok:
        ids = tok.encode(files)
    return {file.relative_to(folder).as_posix(): row.tolist() for file, row in zip(files, ids, strict=True)}


def found(out: Path) -> Ids:
    """{key: ids} of all finished shards; a key that is there twice fails."""
    tables = [pq.ParquetFile(path).read() for path in sorted(out.glob("*.parquet"))]
    rows = pa.concat_tables(tables).select(["path", "ids"]).to_pylist()
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row["ids"] for row in rows}


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Any]:
    """A Ray cluster of one node, to which this process is connected; tests may add nodes and take them away."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster

        node = {
            "num_cpus": 2,
            "object_store_memory": 200 << 20,
            "include_dashboard": False,
            # A node that is gone refuses at once, so it is found out soon; a slow one still has 10 s each time.
            "_system_config": {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200},
        }
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
