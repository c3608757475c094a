# Everything that a newcomer and CI need. `make help` lists the targets.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
REFERENCE := .venv-reference
PIP := -m pip --disable-pip-version-check install --quiet
POOL ?= ../shared/data/train_pool
ADAPTER ?= adapters/embedded
BUNDLE := build/bundle

.PHONY: help demo bundle serve test test-fast test-reference lint bench-quick accuracy modes pair-passes train clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: bundle ## set up, start the server, moderate the example texts over gRPC, print the verdicts
	$(PY) -m serving.demo --bundle $(BUNDLE)

bundle: $(VENV)/.serving ## base checkpoint + adapter -> merged checkpoint -> compiled bundle (each step cached)
	$(PY) -m build_scripts.embedded_checkpoint --out build/base
	$(PY) -m build_scripts.merge_lora --base build/base --adapter $(ADAPTER) --out build/merged
	$(PY) -m build_scripts.compile --checkpoint build/merged --out $(BUNDLE)

serve: bundle ## serve the bundle on loopback until Ctrl-C
	$(VENV)/bin/tritonguard-serve --bundle $(BUNDLE)

test: lint bundle $(VENV)/.dev $(REFERENCE)/.ok ## everything: lint, types, unit, end-to-end on a real Triton, against torch
	$(PY) -m pytest tests --ignore tests/reference
	$(REFERENCE)/bin/python -m pytest tests/reference

test-fast: $(VENV)/.dev ## without the server and without the reference environment
	$(PY) -m pytest tests --ignore tests/reference --ignore tests/e2e

test-reference: bundle $(REFERENCE)/.ok ## only the comparisons with torch, transformers and PEFT
	$(REFERENCE)/bin/python -m pytest tests/reference

lint: $(VENV)/.dev ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench-quick: bundle ## p50 of the bare forward and p50 through client and Triton, in one run
	$(PY) -m benchmarks.quick --bundle $(BUNDLE)

accuracy: bundle $(VENV)/.dev ## F1, FPR, AUC through the served path, beside a regression (POOL=folder)
	$(PY) -m benchmarks.accuracy --pool $(POOL) --adapter $(ADAPTER) --bundle $(BUNDLE)

modes: bundle $(VENV)/.dev ## replies, categories, policies and think through the served path, with bars (POOL=folder)
	$(PY) -m benchmarks.modes --pool $(POOL) --adapter $(ADAPTER) --bundle $(BUNDLE)

pair-passes: bundle ## prompt and response judged in one pass against two: labels, logits, time (POOL=folder)
	$(PY) -m benchmarks.pair_passes --pool $(POOL) --adapter $(ADAPTER) --bundle $(BUNDLE)

train: bundle $(REFERENCE)/.ok ## train the adapter again (POOL=folder; hours on two cores; resumable)
	$(REFERENCE)/bin/python -m build_scripts.train_adapter --base build/base --pool $(POOL) --out build/training

clean: ## remove environments and everything built
	rm -rf $(VENV) $(REFERENCE) build

# The environment that builds and serves: no torch. The server binary's wheel comes without its own
# dependencies, which belong to a part of it that is not used here.
$(VENV)/.serving: pyproject.toml client/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed; name one with make PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) (about 600 MB)"
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) --no-cache-dir -c constraints.txt -e ./client -e '.[build]'
	$(PY) $(PIP) --no-cache-dir --no-deps -c constraints.txt nvidia-pytriton
	touch $@

$(VENV)/.dev: $(VENV)/.serving
	$(PY) $(PIP) --no-cache-dir -c constraints.txt -e '.[build,test]'
	touch $@

# The environment that compares with torch, transformers and PEFT (and trains).
$(REFERENCE)/.ok: pyproject.toml client/pyproject.toml constraints.txt
	@echo "setting up $(REFERENCE) (torch; about 1.6 GB)"
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/python $(PIP) --no-cache-dir -c constraints.txt torch
	$(REFERENCE)/bin/python $(PIP) --no-cache-dir -c constraints.txt -e ./client -e '.[build,reference]' pytest hypothesis
	touch $@
