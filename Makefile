# Two commands do everything: `make run` and `make test`. The rest is for working on Evenflow.
PYTHON ?= python3
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run restart setup hooks test test-unit test-integration test-vllm check lint types fmt protos lock wheel bench load soak clean

help: ## Print this page
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

run: setup ## Start the mesh, stream one answer, serve until Ctrl-C (ENGINE=vllm for vLLM)
	@$(PY) -m deploy.local run

restart: setup ## Restart a running mesh, no request fails: make restart PROGRAMS="router envoy"
	@$(PY) -m deploy.local restart $(PROGRAMS)

setup: ## Set up what is missing: environment, stubs
	@$(PYTHON) -m deploy.local.stage0

test: test-unit test-integration test-vllm ## Run every test

test-unit: setup ## Run the tests that need no other process
	@$(PY) -m pytest tests/unit tests/contract tests/fuzz

test-integration: setup ## Run the tests on real Envoy, sockets, certificates and clients
	@$(PY) -m pytest tests/integration tests/load

test-vllm: setup ## Run the engines' contract suite on vLLM, in vLLM's own environment
	@$(PY) -m deploy.vllm test

check: setup lint types ## Run every static check, in CI's order

lint: ## ruff, import contracts, buf lint and breaking, shellcheck, yamllint
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@PYTHONPATH=.:client .venv/bin/lint-imports --no-cache
	@$(PY) protos/check.py
	@.venv/bin/shellcheck .ci/run && .venv/bin/yamllint --strict .

types: ## mypy --strict on services, client, deploy, benchmarks and tests
	@$(PY) -m mypy services client deploy benchmarks tests

hooks: setup ## Run the static checks before each commit
	@.venv/bin/pre-commit install

fmt: ## Format the code
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

protos: ## Generate the stubs anew
	@$(PY) protos/generate.py

lock: ## Write requirements.lock anew from requirements.in
	@.venv/bin/uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements.in -o requirements.lock

wheel: setup ## Build the `evenflow` wheel into dist/
	@$(PY) -m build --wheel --no-isolation

bench: setup ## Run a benchmark: make bench NAME=overhead
	@$(PY) -m benchmarks $(NAME)

load: setup ## Send 100,000 requests and see that nothing grows or stays (3 to 5 minutes)
	@$(PY) -m benchmarks load

MINUTES ?= 60
soak: setup ## Hold half load for an hour and see the same: make soak MINUTES=60
	@$(PY) -m benchmarks soak --minutes $(MINUTES)

clean: ## Remove everything that the project's commands have made
	rm -rf .venv .evenflow dist client/evenflow/*/v1
