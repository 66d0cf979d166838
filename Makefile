# The commands that stand. `make demo` and `make test` work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env env-model env-train serve-env demo test test-real check format bench clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: .venv/ready  ## the environment, in .venv (no torch: curation doesn't need it)

env-model: .venv/model-ready  ## the same with torch, diffusers and transformers: what generation needs

env-train: .venv/train-ready  ## and with DeepSpeed and TensorBoard: what training needs, and the tests

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/s2v doctor --fetch
	touch $@

.venv/model-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,model]'
	touch $@

.venv/train-ready: .venv/model-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train]'
	touch $@

serve-env: .venv-serve/ready  ## vLLM in an environment of its own, .venv-serve: what `s2v caption serve` runs

.venv-serve/ready: captioning/serve_env.sh captioning/serve_shim.py
	captioning/serve_env.sh $(PYTHON) .venv-serve
	touch $@

demo: .venv/ready  ## make sample videos, curate them, say where the report is
	$(BIN)/python -m curation.demo demo/videos
	$(BIN)/s2v curate demo/videos --out demo/dataset
	@echo "Open demo/dataset/report/index.html in a browser."

test: .venv/train-ready  ## the tests: under 15 minutes on 2 cores
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not real'

test-real: .venv/train-ready .venv-serve/ready  ## slow checks: kill storms, real clips, 50,000-clip report
	$(BIN)/python -m pytest -m real

check: .venv/train-ready  ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/train-ready  ## what Ray adds, 100,000 clips without video, and the model; docs/performance.md has the others
	$(BIN)/python -m benchmarks.curation overhead
	$(BIN)/python -m benchmarks.curation scale --clips 100000
	$(BIN)/python -m benchmarks.model caches
	$(BIN)/python -m benchmarks.model memory
	$(BIN)/python -m benchmarks.trainer_parity

clean:
	rm -rf .venv .venv-serve demo build *.egg-info
