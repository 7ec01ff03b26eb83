#!/bin/sh
# Measure a rented GPU, in a container with PyTorch: install, measure for 18 minutes at most, leave gpu.json in OUT.
# The same call goes on where it stopped.
set -eu
cd "$(dirname "$0")/../.."
OUT=${OUT:-$PWD/gpu-results}
python3 -m pip install -q -c constraints.txt "./runtime[gpu,cli,images]" .
coda doctor || true
exec python3 -m benchmarks.gpu run --budget 1080 --work "$OUT/work" --out "$OUT" "$@"
