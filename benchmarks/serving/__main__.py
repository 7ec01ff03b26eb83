"""`coda serve` under load: how much of the engine's own speed it serves, how long answers take, and whether it lasts.

``python -m benchmarks.serving BUNDLE [--rounds 5] [--seconds 10] [--soak-minutes 10] [--json FILE]``.

1. Ceiling: `encode` of full batches in this process, and saturation: clients in a process of their own that send the
   next request when the last is answered. Both in turn, so that a machine that slows down slows both.
2. Latency at half of saturation: requests at random moments, each counted from when it was meant to be sent.
3. Soak at 80 % of saturation: lost requests, and the server's memory every second.

Clients and server share the machine's processors; what the clients take of them is reported.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import coda_runtime
from benchmarks.common import mebibytes, paired_ratio, save
from benchmarks.serving.load import Outcome, Target, closed_loop, open_loop, prepare
from benchmarks.serving.process import Running, server
from coda_runtime.bench.statistics import percentile
from coda_runtime.machine.memory import resident_bytes

KINDS = ("pixels", "jpeg")


def main() -> None:
    """Measure one bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--protocol", choices=["http", "grpc"], default="http")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=int, default=1, help="images in a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each round, ceiling and saturation alike")
    parser.add_argument("--latency-seconds", type=float, default=60)
    parser.add_argument("--soak-minutes", type=float, default=0)
    parser.add_argument("--threads", type=int, help="of the engine, in the server and here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    threads = ["--threads", str(args.threads)] if args.threads else []
    settings = ("protocol", "clients", "images", "rounds", "seconds", "threads")
    results: dict[str, Any] = {name: getattr(args, name) for name in settings}
    with (
        coda_runtime.load(args.bundle, threads=args.threads) as tok,
        server(args.bundle, threads) as running,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        for kind in args.kinds:
            target = prepare(args.protocol, getattr(running, args.protocol), request(kind, args.images, tok))
            row = results[kind] = saturate(kind, tok, target, pool, args)
            rate = row["requests_per_second"]
            half = pool.submit(open_loop, target, 4 * args.clients, args.latency_seconds, rate / 2, 1).result()
            row["half"] = {"requests_per_second": rate / 2, **summary(half)}
            print(f"  at half of it      {words(half)}")
            if args.soak_minutes:
                row["soak"] = soak(target, running, pool, 0.8 * rate, args)
    save(args.json, results)


def request(kind: str, count: int, tok: coda_runtime.Tokenizer) -> NDArray[Any]:
    """Return the images of one request: pixels of the tokenizer's size, or JPEG files of twice that."""
    if kind == "pixels":
        return images(count, tok.spec.image_shape)
    out: NDArray[Any] = np.empty(count, np.object_)
    out[:] = files(count, twice(tok))
    return out


def twice(tok: coda_runtime.Tokenizer) -> tuple[int, int]:
    """Return twice the height and width of the tokenizer's images."""
    return 2 * tok.spec.height, 2 * tok.spec.width


def images(count: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Make smooth images with some noise, uint8 [count,*shape,3]."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    waves = random.uniform(2, 20, (count, 1, 1, 3, 2))
    smooth = np.sin(waves[..., 0] * y[None, :, :, None] + waves[..., 1] * x[None, :, :, None]) * 100 + 128
    noisy: NDArray[np.uint8] = (smooth + random.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
    return noisy


def files(count: int, shape: tuple[int, int]) -> list[bytes]:
    """Return the same as JPEG files."""
    out = []
    for image in images(count, shape):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out


def saturate(
    kind: str, tok: coda_runtime.Tokenizer, target: Target, pool: ProcessPoolExecutor, args: argparse.Namespace
) -> dict[str, Any]:
    """Measure ceiling and saturation in turn, and the ratio of the two round by round."""
    ceilings: list[float] = []
    served: list[float] = []
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        images = batch(kind, tok, Path(folder))
        pool.submit(closed_loop, target, args.clients, 1.0).result()  # connections, caches, the first batches
        tok.encode(images)
        for _ in range(args.rounds):
            ceilings.append(ceiling(tok, images, args.seconds))
            outcome = pool.submit(closed_loop, target, args.clients, args.seconds).result()
            outcomes.append(outcome)
            served.append((len(outcome.latencies) - outcome.lost) * args.images / outcome.seconds)
    share = paired_ratio(served, ceilings)
    cpu = sum(outcome.cpu_seconds for outcome in outcomes) / sum(outcome.seconds for outcome in outcomes)
    lost = sum(outcome.lost for outcome in outcomes)
    print(f"\n{kind} over {args.protocol}, {args.images} in a request, {args.clients} clients")
    print(f"  ceiling            {np.median(ceilings):8.1f} images/s: encode of {tok.images_per_run} in one process")
    print(f"  served             {np.median(served):8.1f} images/s, {lost} lost; clients took {cpu:.2f} processors")
    print(f"  share              {share.median:8.1%} ({share.low:.1%} to {share.high:.1%})")
    return {
        "ceiling_images_per_second": ceilings,
        "served_images_per_second": served,
        "share": share.median,
        "share_low": share.low,
        "share_high": share.high,
        "requests_per_second": float(np.median(served)) / args.images,
        "client_processors": cpu,
        "lost": lost,
    }


def batch(kind: str, tok: coda_runtime.Tokenizer, folder: Path) -> NDArray[np.uint8] | Sequence[Path]:
    """Return one full batch as the runtime takes it: pixels, or paths of files."""
    count = tok.images_per_run
    if kind == "pixels":
        return images(count, tok.spec.image_shape)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path, file in zip(paths, files(count, twice(tok)), strict=True):
        path.write_bytes(file)
    return paths


def ceiling(tok: coda_runtime.Tokenizer, images: Any, seconds: float) -> float:
    """Measure the images per second of one caller with full batches."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        count += len(tok.encode(images))
    return count / (time.perf_counter() - start)


def soak(
    target: Target, running: Running, pool: ProcessPoolExecutor, rate: float, args: argparse.Namespace
) -> dict[str, Any]:
    """Load for minutes, with the server's memory every second."""
    seconds = args.soak_minutes * 60
    future = pool.submit(open_loop, target, 4 * args.clients, seconds, rate, 2)
    memory = []
    while not future.done():
        memory.append(mebibytes(resident_bytes(running.pid)))
        time.sleep(1)
    outcome = future.result()
    late = memory[len(memory) // 5 :] or memory  # allocators settle at first
    slope = float(np.polyfit(np.arange(len(late)) / 60, late, 1)[0]) if len(late) > 1 else 0.0
    print(f"  soak, {seconds / 60:.1f} minutes  {words(outcome)}")
    print(f"  its memory         {min(late):.0f} to {max(late):.0f} MiB, {slope:+.2f} MiB a minute")
    about = {"minutes": args.soak_minutes, "requests_per_second": rate, "resident_mib": memory}
    return {**about, "mib_per_minute": slope, **summary(outcome)}


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of an open loop."""
    milliseconds = {f"p{q}_ms": percentile(outcome.latencies, q) * 1e3 for q in (50, 99)}
    about = {"requests": len(outcome.latencies), "lost": outcome.lost, "seconds": outcome.seconds}
    return {**about, **milliseconds, "client_processors": outcome.cpu_seconds / outcome.seconds}


def words(outcome: Outcome) -> str:
    """Write the same in a line."""
    metrics = summary(outcome)
    return (
        f"p50 {metrics['p50_ms']:.1f} ms, p99 {metrics['p99_ms']:.1f} ms; {metrics['requests']} requests, "
        f"{metrics['lost']} lost; clients took {metrics['client_processors']:.2f} processors"
    )


if __name__ == "__main__":
    main()
