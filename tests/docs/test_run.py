"""What a page tells to type is typed, page by page, in a folder that holds what its reader has: it works as printed.

A command that cannot run here stands in NOT_HERE with the reason; nothing else is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Line, commands, pages, python

LIMIT = 300.0
"""Seconds after which something that takes moments is given up."""

# What the whole text matches -> why it is not run.
NOT_HERE = {
    r"pip (install|download) .*": "tests/wheels",
    r"make .*": "it is what runs these tests, or runs them and more",
    r"coda .*(org/name|s3://|SRC|BUNDLE_OR_ID|official:).*": "needs a network",
    r"coda export .*--into .*": "tests/export/test_extension.py: the bundle here has both precisions",
    r"coda export tokenizer/ --image-size .*": "random weights at twice the tokens fall short: test_rectangle.py",
    r"coda export (wide|large) .*": "what the page trains before",
    r"coda export coda_deploy/sample/.*": "tests/deploy/test_demo.py exports the sample",
    r"python docs/.*": "pictures of what the pages train",
    r"coda export .*int8.*": "random weights lose more than int8 may: tests/export/int8",
    r"coda import-official .*": "a published checkpoint: tests/deploy/official has a stand-in",
    r"coda .*(--device|--backend) \S*(cuda|tensorrt).*": "needs a GPU",
    r"coda build .*--engine tensorrt .*": "needs TensorRT and a GPU",
    r"coda encode .*--provider OpenVINOExecutionProvider.*": "needs hardware of Intel",
    r"coda verify .*--record.*": "records engines that a GPU has run",
    r"(torchrun .*)?coda train .*--config (flux|mar|sample).*": "days on GPUs, or minutes",
    r"coda (train|export) .*python:my_vae:.*": "tests/deploy/families/test_user_module.py makes a tokenizer of it",
    r"coda train-vae .*--data.*": "hours",
    r"coda eval .*(--rfid|--lpips|--all).*": "needs weights that are downloaded",
    r"coda weights .*": "downloads 64 MB: `make test` has done it",
    r"coda eval .*held_out.*": "photographs that the page makes from packages of Debian",
    r"coda bench (ab|compare|report) .*": "bundles or results of two times, or of two machines",
    r"coda tokenize .*\{000\.\.146\}.*": "147 shards",
    r"(coda tokenize|python) .*(examples/next_scale|demo/bundle).*": "tests/examples",
    r"pytest -m gpu .*": "needs a GPU",
    r"python -m benchmarks\..*": "a benchmark",
    r"python -m http\.server .*": "tests/runtime/site serves the page so",
    r"python -m coda_deploy\.sample\.recipe\..*": "packages of Debian, or what was made of them",
    r"(curl|docker|hf|split|mkdir|for|size=|json=|length=|\{) ?.*": "another program's",
}
PYTHON_NOT_HERE = {
    "import duckdb": "tests/docs/test_readers.py",
    "torchdata": "tests/docs/test_readers.py",
    "cuda": "needs a GPU",
    "CUDAExecutionProvider": "needs a GPU",
    "on the GPU": "needs a GPU",
    "org/name": "needs a network",
    "official:": "needs a network",
    "path/or/hub-id": "a VAE of the reader's",
    "triton.InferenceServerClient": "needs a server: tests/runtime/serving, tests/runtime/triton",
    "client.get_model_config": "needs a server",
}
# What would take long, or bind a port that is taken, with what it is given instead.
SHORTER = {
    "bench run": ["--seconds", "0.02", "--repeat-process", "1"],
    "tune": ["--seconds", "0.02", "--repeat-process", "1", "--busy", "--precision", "fp32", "--batch", "1"],
    "serve": ["--http-port", "0", "--grpc-port", "0"],
    # The reader's bundle has bf16, which nothing else runs on every processor.
    "verify --layers": ["--backend", "openvino"],
}
FLUX_SCALES = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)


def reason(text: str) -> str | None:
    """Why a command is not run here."""
    return next((why for pattern, why in NOT_HERE.items() if re.fullmatch(pattern, text, re.DOTALL)), None)


ALL = [line for page in pages() for line in commands(page)]
RUN = {page: [line for line in commands(page) if reason(line.text) is None] for page in pages()}
CODE = [line for page in pages() for line in python(page)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What readers have: photographs, a VAE, a configuration, a tokenizer of FLUX's schedule, its bundle, tokens."""
    from coda_deploy.export import export_tokenizer
    from coda_export import Threshold
    from tests import tiny_tokenizers
    from tests.deploy.train import runs

    folder = tmp_path_factory.mktemp("reader")
    photographs = sorted((ROOT / "coda_deploy" / "photographs").glob("*.jpg"))[:3]
    for name in ("photos", "imagenet/val"):
        (folder / name).mkdir(parents=True)
        for path in photographs:
            shutil.copy(path, folder / name)
    for path in photographs:
        (folder / "classes" / path.stem).mkdir(parents=True)
        shutil.copy(path, folder / "classes" / path.stem)
    shutil.copy(photographs[0], folder / "photo.jpg")
    tokenizer = tiny_tokenizers.make("flux", image_size=128, scales=FLUX_SCALES)
    tokenizer.save_pretrained(folder / "tokenizer")
    thresholds = {name: Threshold(0.3, 10.0) for name in ("fp32", "bf16")}
    export_tokenizer(folder / "tokenizer", folder / "bundle", precisions=("fp32", "bf16"), thresholds=thresholds)
    runs.make_vae().save_pretrained(folder / "vae")
    (folder / "my.toml").write_text(runs.config().to_toml(), encoding="utf-8")
    (folder / "BUNDLE").symlink_to("bundle")
    (folder / "demo").mkdir()
    (folder / "demo" / "bundle").symlink_to("../bundle")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "reader"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # `coda tune` records there what load follows
    return folder


def run(line: Line, folder: Path, made: Path) -> None:
    """As the reader does, but for what SHORTER says, and with what the command makes not there before."""
    program, *words = shlex.split(line.text.split("\n")[0])
    out = words[words.index("--out") + 1] if "--out" in words else None
    if out is not None and (folder / out).is_dir() and words[0] in ("export", "train", "tokenize"):
        shutil.rmtree(folder / out)
    stdin = None
    if program == "python" and "<<" in line.text:
        words, stdin = [words[0], words[1]], "\n".join(line.text.split("\n")[1:-1])
    if ">" in words:
        words = words[: words.index(">")]
    name = " ".join(words[:2]) if words[0] == "bench" else words[0]
    name += " --layers" if "--layers" in words else ""
    module = ["-m", "coda_runtime.cli"] if program == "coda" else []
    command = [sys.executable, *module, *words, *(SHORTER.get(name, []) if program == "coda" else [])]
    if words[0] == "serve":
        _serve(command, folder)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False
    )
    assert done.returncode == 0, f"{line}: {line.text}\n{done.stdout}\n{done.stderr}"
    assert "error:" not in done.stderr, line
    if out is not None:
        assert (folder / out).exists(), line
    if words[0] == "train":  # a tokenizer of other shapes than those of the bundle that the page goes on with
        shutil.rmtree(folder / str(out))
        shutil.copytree(made, folder / str(out))


def _serve(command: list[str], folder: Path) -> None:
    """It says that it is ready, and ends on SIGTERM."""
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(LIMIT, process.kill)
        guard.start()
        try:
            assert process.stderr is not None
            assert any("ready" in text for text in process.stderr), "it ended before it was ready"
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            assert process.wait(LIMIT) == 0
        finally:
            guard.cancel()
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page, lines in RUN.items() if lines], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_a_page_from_top_to_bottom(page: Path, here: Path, made: Path) -> None:
    for line in RUN[page]:
        run(line, here, made / "tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [block for block in CODE if not any(why in block.text for why in PYTHON_NOT_HERE)], ids=str
)
def test_python(block: Line, here: Path, made: Path) -> None:
    if '"tokens"' in block.text:
        run(Line(block.page, 0, "coda tokenize bundle classes/ --label folder --out tokens"), here, made / "tokenizer")
    if '"mapped"' in block.text:
        run(Line(block.page, 0, "coda tokens convert tokens --to npy --out mapped"), here, made / "tokenizer")
    code = f"import coda_runtime\n{block.text}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_every_reason_is_that_of_something() -> None:
    for pattern in NOT_HERE:
        assert any(re.fullmatch(pattern, line.text, re.DOTALL) for line in ALL), pattern
    for part in PYTHON_NOT_HERE:
        assert any(part in block.text for block in CODE), part
    assert sum(map(len, RUN.values())) > 25
