# `make help` lists the targets. Everything is installed into .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MANIFESTS := pyproject.toml runtime/pyproject.toml constraints.txt
TYPED := coda_deploy export/coda_export runtime/coda_runtime examples $(wildcard benchmarks docs/generator)

# A stamp is touched last, so that an install which was stopped is done again.
VENV_STAMP := $(VENV)/.stamp-venv
DEMO_STAMP := $(VENV)/.stamp-demo
TEST_STAMP := $(VENV)/.stamp-test
WEIGHTS_STAMP := $(VENV)/.stamp-weights
DOCS_STAMP := $(VENV)/.stamp-docs

# constraints.txt goes with every call of pip: it says which torch is taken.
# --no-build-isolation: both packages are built with the hatchling that constraints.txt names.
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

# What of the NVIDIA libraries works without a GPU: engines and kernels are built in tests. --no-deps: the packages that
# these belong to bring gigabytes of CUDA, and some cannot be installed without it. Triton's version stands here and not
# in constraints.txt: PyPI's PyTorch asks for another one, and with a contradiction nothing at all would install.
GPU_PARTS := tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings tensorrt-cu12-bindings \
	triton==3.9.0 cuda-core cuda-bindings cuda-pathfinder

.DEFAULT_GOAL := help
.PHONY: help demo test slow shapes slow-tests portability docs wheels bench format clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1  \t/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(DEMO_STAMP) ## install, then run the whole pipeline on the sample tokenizer; leaves demo/report.html
	$(BIN)/coda demo

test: $(WEIGHTS_STAMP) ## install everything, then lint, type-check, check the layers and run the tests that need no GPU
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports --no-logo
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not gpu and not shapes and not slow"

slow: shapes slow-tests portability docs ## what takes too long for `make test`: the next four

shapes: $(TEST_STAMP) ## build engines of the full-size tokenizers: minutes, and needs no GPU
	$(BIN)/pytest -m shapes

slow-tests: $(WEIGHTS_STAMP) ## tests that take minutes or download: wheels in fresh environments, every command of the docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m slow

portability: $(WEIGHTS_STAMP) ## ids and images on other processors, in minutes; needs qemu-x86_64 (Debian: qemu-user)
	$(BIN)/python -m benchmarks.portability $(if $(JSON),--json $(JSON))

docs: $(DOCS_STAMP) ## the documentation as a site in site/, with search; a link that leads nowhere fails
	$(BIN)/python -m docs.generator.build

wheels: $(TEST_STAMP) ## build both packages into dist/, source archives and wheels, and check them
	PYTHON=$(BIN)/python .ci/wheels dist

bench: $(TEST_STAMP) ## time each piece on the sample, the whole as .benchmarks/results.json, and the quantizer beside the textbook
	$(BIN)/pytest benchmarks/test_stages.py --benchmark-group-by=group --benchmark-sort=name --benchmark-max-time=0.5 \
		--benchmark-columns=min,median,iqr,rounds
	test -d .benchmarks/bundle || $(BIN)/coda export coda_deploy/sample/tokenizer --out .benchmarks/bundle
	$(BIN)/coda bench run .benchmarks/bundle --out .benchmarks/results.json --force
	$(BIN)/python -m benchmarks.bench_quantizer

format: $(TEST_STAMP) ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what the targets made, .venv too
	rm -rf $(VENV) demo build dist site runtime/build runtime/dist .benchmarks .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache

$(VENV_STAMP):
	@command -v $(PYTHON) >/dev/null || { \
		echo "No $(PYTHON) on this machine: install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), and 3.11 or newer is needed. Name another: make PYTHON=python3.11" >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Making $(VENV) with $$($(PYTHON) -V)" && $(PYTHON) -m venv $(VENV); }
	@touch $@

$(DEMO_STAMP): $(VENV_STAMP) $(MANIFESTS)
	@echo "Installing coda-deploy and coda-runtime into $(VENV); the first time takes minutes, for PyTorch is large"
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e 'runtime[cpu,images,cli]' -e .
	@touch $@

$(TEST_STAMP): $(VENV_STAMP) $(MANIFESTS)
	@echo "Installing every extra and the development tools into $(VENV); the first time takes minutes, for PyTorch is large"
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e 'runtime[cpu,openvino,openvino-plugin,images,cli,hub,serve,bulk,nvtx]' -e '.[dev]'
	$(PIP) --no-deps $(GPU_PARTS)
	@$(BIN)/python tests/torchvision_schemas.py
	@touch $(DEMO_STAMP) $@

# What builds the site, on top: no test and no command needs it.
$(DOCS_STAMP): $(TEST_STAMP)
	$(PIP) --no-build-isolation -e runtime -e '.[docs]'
	@touch $@

# Not part of the installation: an index that does not have them must not stop `make format`.
$(WEIGHTS_STAMP): $(TEST_STAMP) coda_deploy/weights/published.py
	@XDG_CACHE_HOME="$(abspath $(VENV))/cache" $(BIN)/coda weights lpips dists
	@touch $@
