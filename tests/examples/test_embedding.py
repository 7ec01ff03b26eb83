"""The examples of docs/embedding.md, run as their readers run them: as programs, on a bundle, by several at a time."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import pickle
import re
import signal
import ssl
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import coda_runtime
from tests.runtime import tiny

EXAMPLES = Path(__file__).parents[2] / "examples" / "embedding"
HEADER = b"IHDR" + struct.pack(">IIBBBBB", 5001, 5000, 8, 0, 0, 0, 0)
HUGE = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + HEADER + struct.pack(">I", zlib.crc32(HEADER)) + bytes(8) + b"IDAT"
)
LIMIT = 120  # seconds, for what takes one or two
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # every client would read all certificates of the system, for HTTP


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONWARNINGS", "error")
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(tiny.photos(6, 48, 80)):
        Image.fromarray(pixels).save(folder / f"{number}.png" if number % 2 else folder / f"{number}.jpg")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def tok(bundle: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(bundle) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def ids(tok: coda_runtime.Tokenizer, photos: list[Path]) -> np.ndarray[Any, Any]:
    out = tok.encode(photos)
    assert len(np.unique(out, axis=0)) == len(photos)  # otherwise mixed-up answers would pass
    return out


@pytest.fixture(scope="module", autouse=True)
def _beside_each_other() -> Iterator[None]:
    """One example imports another, as a file beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


@contextmanager
def server(command: list[object], stream: str, said: str, **env: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server on a port of its own choosing, which it names in a line like `said`; stopped and reaped at the end."""
    pipe = {stream: subprocess.PIPE}
    process = subprocess.Popen([*map(str, command)], text=True, env={**os.environ, **env}, **pipe)  # type: ignore[call-overload]
    try:
        lines = []
        for line in getattr(process, stream):
            lines.append(line)
            if found := re.search(said, line):
                yield int(found[1]), process
                break
        else:
            pytest.fail("".join(lines))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def eventually(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class TestScript:
    def test_tokens_and_images(
        self, bundle: Path, photos: list[Path], tok: coda_runtime.Tokenizer, ids: np.ndarray[Any, Any], tmp_path: Path
    ) -> None:
        done = run("script", bundle, photos[0].parent, tmp_path / "out")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with np.load(tmp_path / "out" / "tokens.npz") as tokens:
            np.testing.assert_array_equal(tokens["ids"], ids)
            assert list(tokens["names"]) == [path.name for path in photos]
        for path, expected in zip(photos, tok.decode(ids), strict=True):
            with Image.open(tmp_path / "out" / f"{path.name}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), expected)

    @pytest.mark.slow
    def test_coda_decode_reads_its_tokens(
        self, bundle: Path, photos: list[Path], tok: coda_runtime.Tokenizer, ids: np.ndarray[Any, Any], tmp_path: Path
    ) -> None:
        assert run("script", bundle, photos[0].parent, tmp_path / "out").returncode == 0
        command = ["decode", bundle, tmp_path / "out" / "tokens.npz", "--out", tmp_path / "decoded"]
        done = subprocess.run(
            [sys.executable, "-m", "coda_runtime.cli", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert (done.returncode, done.stderr) == (0, "")
        for path, expected in zip(photos, tok.decode(ids), strict=True):
            with Image.open(tmp_path / "decoded" / f"{path.stem}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), expected)

    @pytest.mark.slow
    def test_a_bad_image_ends_it_in_one_line(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.jpg").write_text("text")
        done = run("script", bundle, tmp_path, tmp_path / "out")
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*bad\.jpg' is not an image.*\n", done.stderr)

    def test_it_is_short(self) -> None:
        code = (EXAMPLES / "script.py").read_text().split("import sys", 1)[1]
        assert len(code.splitlines()) <= 30


@pytest.fixture(scope="module")
def web(bundle: Path) -> Iterator[int]:
    """The port of the FastAPI application under uvicorn."""
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--app-dir", EXAMPLES, "--port", 0]
    env = {"CODA_BUNDLE": str(bundle), "CODA_THREADS": "1"}
    with server(command, "stderr", r"running on http://127\.0\.0\.1:(\d+)", **env) as (port, process):
        yield port
    assert process.returncode in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is done


class TestFastAPI:
    @pytest.fixture
    def client(self, web: int) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=f"http://127.0.0.1:{web}", timeout=LIMIT, verify=NO_TLS) as client:
            yield client

    def test_ready_is_true_after_the_warm_up(self, client: httpx.Client) -> None:
        answer = client.get("/ready")
        assert answer.json() == {"ready": True, "variant": "tiny", "num_tokens": 21, "vocab_size": 16}

    def test_many_at_a_time_get_their_own_ids(
        self, client: httpx.Client, photos: list[Path], ids: np.ndarray[Any, Any]
    ) -> None:
        order = [number % len(photos) for number in range(24)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: client.post("/encode", content=photos[n].read_bytes()), order))
        assert {answer.status_code for answer in answers} == {200}
        np.testing.assert_array_equal([answer.json()["ids"] for answer in answers], ids[order])

    @pytest.mark.parametrize("count", [21, 5])
    def test_ids_become_a_png(
        self, client: httpx.Client, tok: coda_runtime.Tokenizer, ids: np.ndarray[Any, Any], count: int
    ) -> None:
        answer = client.post("/decode", json={"ids": ids[0, :count].tolist()})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        with Image.open(io.BytesIO(answer.content)) as image:
            np.testing.assert_array_equal(np.asarray(image), tok.decode(ids[:1, :count])[0])

    @pytest.mark.parametrize(
        ("path", "body", "status", "says"),
        [
            ("/encode", b"", 422, "is not an image"),
            ("/encode", b"text", 422, "is not an image that Pillow can read as JPEG, PNG"),
            ("/encode", b"GIF89a", 422, "is not an image that Pillow can read as JPEG, PNG"),
            (
                "/encode",
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\0\0\0\0;\x8cQ\x8c",
                422,
                "the upload",
            ),
            ("/encode", bytes((16 << 20) + 1), 413, "at most"),
            ("/decode", b"no JSON", 422, "expected JSON"),
            ("/decode", b"[" * 100_000, 422, "expected JSON"),
            ("/decode", b"[1]", 422, "expected JSON"),
            ("/decode", b'{"ids": [[1], [2, 3]]}', 422, "expected JSON"),
            ("/decode", b'{"ids": [16]}', 422, "16"),
            ("/decode", b'{"ids": [1, 2]}', 422, "scale"),
            ("/decode", b'{"ids": [NaN]}', 422, "float64"),
            ("/decode", b'{"ids": []}', 422, "ids"),
            ("/decode", b'{"ids": "abc"}', 422, "ids"),
            ("/decode", b'{"ids": [99999999999999999999999999]}', 422, "ids"),
        ],
    )
    def test_what_is_wrong_is_reported(
        self, client: httpx.Client, path: str, body: bytes, status: int, says: str
    ) -> None:
        answer = client.post(path, content=body)
        assert (answer.status_code, says in answer.text) == (status, True), answer.text

    def test_full_and_broken_are_503(self, bundle: Path) -> None:
        app = example("fastapi_app")
        broken = coda_runtime.load(bundle)
        broken.close()

        async def status(requests: int) -> tuple[int, str]:
            app.app.state.tok, app.app.state.requests = broken, requests
            app.app.state.threads = app.anyio.CapacityLimiter(1)
            transport = httpx.ASGITransport(app.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                answer = await client.post("/decode", json={"ids": [1]})
            assert app.app.state.requests == requests  # it is let go of again
            return answer.status_code, answer.json()["detail"]

        assert asyncio.run(status(app.MAX_REQUESTS)) == (503, "busy")
        assert asyncio.run(status(0)) == (503, "the tokenizer cannot run now")


@pytest.mark.slow
class TestPreload:
    def test_workers_answer_are_replaced_and_all_end(
        self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any]
    ) -> None:
        command = [sys.executable, EXAMPLES / "preload.py", bundle, 0, 2]
        with (
            server(command, "stdout", r"listening on port (\d+)") as (port, process),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT, verify=NO_TLS) as client,
        ):
            seen: set[int] = set()

            def ask(number: int) -> bool:
                answer = client.post("/", content=photos[number].read_bytes()).json()
                assert answer["ids"] == ids[number].tolist()
                seen.add(answer["worker"])
                return len(seen) >= 2

            for number in range(len(photos)):
                ask(number)
            with ThreadPoolExecutor(4) as pool:  # until both have answered
                eventually(lambda: any(pool.map(ask, range(4))))
            assert len(seen) == 2
            assert client.post("/", content=b"text").status_code == 422
            assert client.post("/", content=b"").status_code == 413

            killed = seen.pop()
            os.kill(killed, signal.SIGKILL)
            left = set(seen)
            with ThreadPoolExecutor(4) as pool:

                def new_one() -> bool:
                    try:
                        list(pool.map(ask, range(4)))
                    except httpx.TransportError:  # it was with the one that was killed
                        return False
                    return len(seen - left - {killed}) == 1

                eventually(new_one)
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
            for pid in seen | {killed}:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)

    def test_a_bundle_that_does_not_load_ends_it(self, tmp_path: Path) -> None:
        done = run("preload", tmp_path / "none", 0, 2)
        assert done.returncode == 1
        assert re.match(r"error: .*none", done.stderr)


class TestAsyncio:
    def test_as_a_program(self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any], tmp_path: Path) -> None:
        done = run("asyncio_service", bundle, photos[0], tmp_path / "none.png")
        assert (done.returncode, done.stderr) == (0, "")
        good, bad = done.stdout.splitlines()
        assert json.loads(good.split(" ", 1)[1]) == ids[0].tolist()
        assert "there is no image" in bad

    def test_many_tasks_get_their_own_ids_and_errors(
        self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any], tmp_path: Path
    ) -> None:
        order = [number % len(photos) for number in range(30)]

        async def main() -> list[Any]:
            async with example("asyncio_service").TokenService(str(bundle), waiting=4, threads=1) as service:
                asked = [service.encode(photos[number]) for number in order]
                asked.insert(7, service.encode(tmp_path / "none.png"))
                return await asyncio.gather(*asked, return_exceptions=True)

        results = asyncio.run(main())
        with pytest.raises(coda_runtime.ImageError, match="there is no image"):
            raise results.pop(7)
        np.testing.assert_array_equal(results, ids[order])

    def test_no_more_than_waiting_are_inside(self, bundle: Path, photos: list[Path]) -> None:
        async def main() -> int:
            async with example("asyncio_service").TokenService(str(bundle), waiting=3, threads=1) as service:
                inside = 0
                put = service._queue.put_nowait

                def watched(item: Any) -> None:
                    nonlocal inside
                    put(item)
                    inside = max(inside, service._queue._unfinished_tasks)

                service._queue.put_nowait = watched
                await asyncio.gather(*[service.encode(photos[0]) for _ in range(40)])
                return inside

        assert 1 <= asyncio.run(main()) <= 3

    def test_who_is_cancelled_leaves_the_others_alone(
        self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any]
    ) -> None:
        async def main() -> list[Any]:
            async with example("asyncio_service").TokenService(str(bundle), threads=1) as service:
                tasks = [asyncio.create_task(service.encode(path)) for path in photos]
                await asyncio.sleep(0)
                tasks[1].cancel()
                out = await asyncio.gather(*tasks, return_exceptions=True)
                out.append(await service.encode(photos[1]))
                return out

        results = asyncio.run(main())
        assert isinstance(results.pop(1), asyncio.CancelledError)
        np.testing.assert_array_equal(results, ids[[0, 2, 3, 4, 5, 1]])

    def test_closing_serves_the_queue_and_then_rejects(
        self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any]
    ) -> None:
        async def main() -> list[Any]:
            service = example("asyncio_service").TokenService(str(bundle), threads=1)
            async with service:
                first = asyncio.create_task(service.encode(photos[0]))
                while service._queue.empty() and not first.done():
                    await asyncio.sleep(0.001)
            late = await asyncio.wait_for(asyncio.gather(service.encode(photos[0]), return_exceptions=True), LIMIT)
            return [await asyncio.wait_for(first, LIMIT), *late]

        served, late = asyncio.run(main())
        np.testing.assert_array_equal(served, ids[0])
        assert isinstance(late, coda_runtime.ClosedError)

    def test_an_engine_that_fails_tells_every_caller(self, bundle: Path, photos: list[Path]) -> None:
        async def main() -> list[Any]:
            async with example("asyncio_service").TokenService(str(bundle), threads=1) as service:
                service.tok.close()
                return await asyncio.gather(*map(service.encode, photos), return_exceptions=True)

        assert [type(error) for error in asyncio.run(main())] == [coda_runtime.ClosedError] * len(photos)


@pytest.fixture(scope="module")
def mixed(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photographs and a file that is none, first in their order."""
    folder = tmp_path_factory.mktemp("mixed")
    for path in photos:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "-.jpg").write_text("text")
    return folder


class TestWorkerPool:
    def test_rows_are_the_ids_and_what_is_broken_is_told(
        self, bundle: Path, mixed: Path, ids: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = run("worker_pool", bundle, mixed, tmp_path / "tokens.npy", 2)
        assert (done.returncode, done.stdout) == (0, f"6 of 7 images: {tmp_path / 'tokens.npy'}\n"), done.stderr
        assert re.fullmatch(r".*-\.jpg: .*is not an image.*\n", done.stderr)
        tokens = np.load(tmp_path / "tokens.npy")
        assert (tokens[0] == -1).all()
        np.testing.assert_array_equal(tokens[1:], ids)
        assert [path.name for path in tmp_path.iterdir()] == ["tokens.npy"]

    @pytest.mark.slow
    def test_more_than_the_workers_take_at_once(
        self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any], tmp_path: Path
    ) -> None:
        """In this process, so that the chunks can be small; its workers are spawned as always."""
        pool = example("worker_pool")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool, "AT_ONCE", 1)
            patch.setitem(sys.modules, "worker_pool", pool)  # by its name the workers find it
            problems = list(pool.run(str(bundle), [str(path) for path in photos], str(tmp_path / "t.npy"), 1))
        assert problems == []
        np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), ids)

    def test_a_bundle_that_does_not_load(self, tmp_path: Path) -> None:
        done = run("worker_pool", tmp_path / "none", tmp_path, tmp_path / "t.npy", 1)
        assert done.returncode == 1
        assert re.match(r"error: .*none", done.stderr)


class TestTorchDatasets:
    @pytest.mark.slow
    def test_every_image_once(
        self, bundle: Path, mixed: Path, ids: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONWARNINGS", "default")
        done = run("torch_datasets", bundle, mixed, 2)
        assert done.returncode == 0, done.stderr
        assert re.search(r"RuntimeWarning: .*-\.jpg", done.stderr)
        found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert len(found) == len(done.stdout.splitlines()) == 6
        for path, expected in zip(sorted(mixed.iterdir())[1:], ids, strict=True):
            assert json.loads(found[str(path)]) == expected.tolist()

    def test_in_one_process(self, bundle: Path, photos: list[Path], ids: np.ndarray[Any, Any]) -> None:
        pytest.importorskip("torch.utils.data")
        found = dict(example("torch_datasets").EncodedImages(str(bundle), [str(path) for path in photos]))
        assert list(found) == list(range(len(photos)))
        np.testing.assert_array_equal([found[number].numpy() for number in found], ids)

    def test_tokens_of_a_file(self, ids: np.ndarray[Any, Any], tmp_path: Path) -> None:
        torch_data = pytest.importorskip("torch.utils.data")
        np.save(tmp_path / "tokens.npy", ids)
        dataset = example("torch_datasets").StoredTokens(str(tmp_path / "tokens.npy"))
        loader = torch_data.DataLoader(dataset, batch_size=4)
        np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in loader]), ids)
        assert dataset._rows is not None
        assert pickle.loads(pickle.dumps(dataset.__getstate__()))["_rows"] is None
