# make quickstart   install once into .venv, then run the whole chain: configs/quickstart.yaml
# make label        open the labeling application of CONFIG (default: the quickstart's)
# make test         all tests: first those that take seconds, then whole stages and the browser
# make lint         ruff and pyright
# make .venv-trl/installed   TRL's last PPO trainer in an environment of its own, to compare with
#
# PYTHON=python3.12     the interpreter to make .venv with; found by itself otherwise
# TORCH_INDEX_URL=…     where a Linux machine without a GPU gets torch from: name an index of CPU builds
#                       to save gigabytes; empty: the configured package index

CONFIG ?= configs/quickstart.yaml
TORCH_INDEX_URL ?=
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
TRL_PIP := .venv-trl/bin/python -m pip install -qq --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
HAS_PINNED_TORCH := $(BIN)/python -c "import importlib.metadata as m; \
	assert m.version('torch').split('+')[0] == '$(TORCH)'" 2>/dev/null

.PHONY: quickstart label test lint

quickstart: .venv/installed
	$(BIN)/align run configs/quickstart.yaml

label: .venv/installed
	$(BIN)/align label $(CONFIG)

test: .venv/installed-dev
	@export ALIGN_BROWSER="$$(sh tests/find_browser.sh --install)" && \
	export ALIGN_POSTGRES="$$(sh tests/find_postgres.sh --install)" && \
	$(BIN)/pytest -m "not slow and not browser" && \
	$(BIN)/pytest -m "slow or browser"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Set-up: done once, and again when the dependencies change. With a GPU, an installed torch is
# used as it is. On Linux without one, torch's CPU build is installed: from the configured package
# indexes if one has it, else from TORCH_INDEX_URL.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Fix: make PYTHON=/path/to/python"; false; }
	@echo "Installing into .venv (once; a few minutes) …"
	@if command -v nvidia-smi >/dev/null && $(PYTHON) -c "import torch" 2>/dev/null; \
	then flags=--system-site-packages; omit='^torch=='; \
	else flags=; omit='^$$'; fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $$flags .venv || { rm -rf .venv; \
		echo "Fix: install Python's venv module (Debian: apt install python3-venv)."; false; } && \
	grep -v "$$omit" constraints.txt >.venv/constraints.txt
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! $(HAS_PINNED_TORCH); then \
		$(PIP) --no-deps "torch==$(TORCH)+cpu" 2>/dev/null || [ -z "$(TORCH_INDEX_URL)" ] || \
		$(PIP) --no-deps --retries 1 --index-url "$(TORCH_INDEX_URL)" "torch==$(TORCH)" || \
		echo "No CPU build of torch there: taking the package registry's."; fi
	@$(PIP) -c .venv/constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	@$(PIP) -c .venv/constraints.txt -e ".[dev]"
	@touch $@

# TRL's last release with a PPO trainer, for benchmarks/ppo.py and examples/ppo_from_trl.py alone:
# it does not go with the TRL that the pipeline uses.
.venv-trl/installed: constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Fix: make PYTHON=/path/to/python"; false; }
	@echo "Installing TRL 1.12 into .venv-trl (once; a few minutes) …"
	@$(PYTHON) -m venv --clear .venv-trl
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(TRL_PIP) "torch==$(TORCH)+cpu" 2>/dev/null || [ -z "$(TORCH_INDEX_URL)" ] || \
		$(TRL_PIP) --index-url "$(TORCH_INDEX_URL)" "torch==$(TORCH)" || true; fi
	@$(TRL_PIP) "torch==$(TORCH)" trl==1.12.0 "transformers<5.24"
	@touch $@
