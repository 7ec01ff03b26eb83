"""``python -m benchmarks.gpu run | prepare | render | table``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

_EPILOG = """\
What a machine without registries lacks is carried as wheels (--wheels DIR, whole or as parts of `split`, joined by
name); sizes for CPython 3.12 on x86-64 Linux, in MB, versions as in constraints.txt:
  diffusers 6.4, importlib-metadata 0.03, lazy-importer 0.01    the tokenizer
  peft 0.8                                                      where there is none, or one older than 0.18
  cuda-core 6.6, cuda-bindings 8.4, cuda-pathfinder 0.06        where there are none, or cuda-core before 1.2
  onnxruntime-gpu 255                                           its CUDA and cuDNN come with PyTorch
  tensorrt-rtx-cu13-libs 95, tensorrt-rtx-cu13-bindings 1.2     CUDA 12: cu12 in place of cu13
  pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d DIR NAME==VERSION ...
docs/gpu.md has the calls one by one.
"""


def main() -> None:
    """Parse the arguments, put the packages on the path, and go."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Measure everything there is on one GPU, side by side.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure; a call that is cut short goes on where it stopped")
    run.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu proves the flow, and times nothing")
    run.add_argument("--shapes", nargs="+", default=["mar_v16384", "sample", "flux_v65536"], help="tiny is one too")
    run.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128])
    run.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    run.add_argument("--families", nargs="+", help="only these: see the first column that `run` prints")
    run.add_argument("--seconds", type=float, default=0.4, help="of each measurement, after as much warm-up")
    run.add_argument("--budget", type=float, default=540.0, help="seconds after which nothing new is begun")
    work = Path(tempfile.gettempdir(), "coda-gpu")
    run.add_argument("--work", type=Path, default=work, help="tokenizers, bundles, rows so far; %(default)s")
    run.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder of gpu.json")
    run.add_argument("--wheels", type=Path, nargs="*", default=[], help="folders of wheels or parts to install first")
    run.add_argument("--kernels", type=Path, help="PTX that `prepare` made; compiled here without")
    run.add_argument("--triton", type=Path, help="folder with the Triton that compiles kernels, beside PyTorch's own")
    run.add_argument("--compile-backend", default="inductor", help="of torch.compile")
    run.add_argument("--processes", choices=("fork", "spawn"), default="fork", help="spawn is slower, and safer")
    run.add_argument("--prepare-only", action="store_true", help="make tokenizers, references and bundles, and stop")
    prepare = commands.add_parser("prepare", help="compile the kernels of the shapes to PTX, to be carried")
    prepare.add_argument("--out", type=Path, required=True)
    prepare.add_argument("--shapes", nargs="+", default=["mar_v16384", "flux_v65536", "sample"])
    render = commands.add_parser("render", help="Markdown of a gpu.json, for docs/gpu.md")
    render.add_argument("results", type=Path)
    fleet = commands.add_parser(
        "table", help="check results of several GPUs and print them as one table; those of `coda bench run` too"
    )
    fleet.add_argument("results", type=Path, nargs="+")
    fleet.add_argument("--price", nargs="*", default=[], metavar="GPU=DOLLARS", help="an hour: images for a dollar")
    fleet.add_argument("--svg", type=Path, help="write a chart too")
    args = parser.parse_args()
    # No library may round float32 products to TF32: it changes 5 to 10 % of the ids. TensorRT's provider has no option.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # PyTorch may count GPUs while it is imported, which must not open CUDA: children of a fork could not use it then.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for folder in ("runtime", "export", "."):
        sys.path.insert(0, str(ROOT / folder))
    if args.command in ("render", "table"):
        from coda_runtime.errors import CodaError

        try:
            (_render if args.command == "render" else _table)(args)
        except CodaError as error:
            raise SystemExit(f"error: {error}") from error
    elif args.command == "prepare":
        from benchmarks.gpu.kernels import carry

        carry(args.shapes, args.out)
    else:
        from benchmarks.gpu.wheels import ensure

        ensure(args.wheels, args.work)
        from benchmarks.gpu.run import run_all

        run_all(args)


def _render(args: argparse.Namespace) -> None:
    from benchmarks.gpu.report import markdown
    from coda_runtime.bench.reading import read_gpu_json

    print(markdown(read_gpu_json(args.results)))


def _table(args: argparse.Namespace) -> None:
    from benchmarks.gpu import fleet
    from benchmarks.svg import standalone
    from coda_runtime.bench.reading import read_results

    prices = fleet.parse_prices(args.price)
    found = fleet.entries([of for path in args.results for of in read_results(path)], prices)
    if not found:
        raise SystemExit("error: none of these files has encode or decode from numpy to numpy")
    print(fleet.table(found))
    if args.svg is not None:
        args.svg.write_text(f"{standalone(fleet.chart(found))}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
