# sweepft: `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test chaos chaos-long test-full gpu-check wheel-check audit check docs reference study findings format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@command -v g++ >/dev/null || { echo "setup: g++ is missing: DeepSpeed builds its CPU communication op with it. Install it, e.g. apt-get install g++"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m sweepft.training.comm_op
	@touch $@

setup: $(STAMP) ## make .venv, install, build DeepSpeed's CPU communication op once

demo: $(STAMP) ## run the embedded sweep: 12 trials on data and a model it makes itself
	$(BIN)/sweepft demo

test: $(STAMP) ## the test-suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not full and not gpu and not chaos"

chaos: $(STAMP) ## kill, hang, fill and slow down what a sweep runs on, and check that nothing is lost
	$(BIN)/python -m pytest -m "chaos and not full and not gpu"

chaos-long: $(STAMP) ## 200 random kills over real sweeps on a cluster of three nodes (an hour; ARGS="--kills 40 --md FILE")
	$(BIN)/python -m benchmarks.chaos $(ARGS)

test-full: $(STAMP) ## all tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not gpu and not chaos"
	$(BIN)/python -m pytest -m "chaos and not gpu"

gpu-check: $(STAMP) ## try a machine with GPUs in eight minutes, or the same stages with tiny models on CPUs (ARGS="--only qlora --json FILE")
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

wheel-check: ## build the wheel and try it in clean environments, without extras, with [run] and with [run,eval,lora] (ARGS="bare", "run", "finalist")
	.ci/wheel-check $(ARGS)

audit: $(STAMP) ## compare versions with the list of known vulnerabilities in advisories.toml
	$(BIN)/python -m pytest -q tests/unit/test_advisories.py

check: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(STAMP) ## write the generated pages and pictures: the YAML file, the command line, the layers
	$(BIN)/python docs/images/draw.py
	$(BIN)/python -m sweepft.spec docs/reference
	$(BIN)/python -m sweepft.cli.reference docs/reference/cli.md

study: $(STAMP) ## make the study's runs, or go on with them (hours; needs the development data; ARGS="--plan --edition gpu --model ...")
	$(BIN)/python -m benchmarks.study.run $(ARGS)

findings: $(STAMP) ## write docs/explanation/findings.md from benchmarks/data/study.parquet
	$(BIN)/python -m benchmarks.study.replay
	$(BIN)/python -m benchmarks.study.findings

format: $(STAMP) ## write the format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was built
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
