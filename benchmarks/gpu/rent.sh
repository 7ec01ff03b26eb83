#!/bin/sh
# Measure a rented GPU in a container with PyTorch: install, measure, leave gpu.json in OUT; 20 minutes at most.
# The same call goes on where it stopped, in a new container too: all that is installed lies in OUT.
# EXTRAS are coda-runtime's; what follows the name of the script goes to `python -m benchmarks.gpu run`.
set -eu
cd "$(dirname "$0")/../.."
CODA_GPU_BEGUN=${CODA_GPU_BEGUN:-$(date +%s)} # installing counts towards the budget
export CODA_GPU_BEGUN
OUT=${OUT:-$PWD/gpu-results}
python=$OUT/venv/bin/python
mkdir -p "$OUT"
torch=$(python3 -c 'import torch; print(torch.__version__)' 2>/dev/null) || {
	echo "error: $(python3 -V 2>&1) here has no PyTorch; expected 2.11 or newer: run this in an image that has it" >&2
	exit 1
}
pip() {
	PIP_CONSTRAINT='' "$python" -m pip install -q --disable-pip-version-check "$@"
}
if ! [ -e "$OUT/installed" ] || ! "$python" -c 'import torch' 2>/dev/null; then
	echo "Installing into $OUT/venv, beside PyTorch $torch of the image"
	rm -f "$OUT/installed"
	# Over what the image has, and with its pip: not every image has the package that a venv takes one from.
	python3 -m venv --without-pip --clear "$OUT/venv"
	python3 -c 'import site; print(*(f"import site; site.addsitedir({x!r})" for x in site.getsitepackages()), sep="\n")' \
		>"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/image.pth"
	# The image's PyTorch, and what was built for it, stay as they are.
	{
		grep -viE '^(torch|triton|tensorrt)' constraints.txt
		python3 -m pip list --format=freeze --disable-pip-version-check | grep -iE '^(torch|triton|tensorrt)'
	} >"$OUT/constraints.txt"
	pip -c "$OUT/constraints.txt" "./runtime[${EXTRAS:-gpu,cuda},cli,images]" .
	# Kernels are compiled by this Triton; PyTorch's compiler keeps its own.
	pip --no-deps --upgrade --target "$OUT/triton" 'triton>=3.9,<3.10' ||
		echo "no Triton for the fused kernel: its rows will say so" >&2
	touch "$OUT/installed"
fi
exec "$python" -m benchmarks.gpu run --triton "$OUT/triton" --budget 1140 --work "$OUT/work" --out "$OUT" "$@"
