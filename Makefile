# Every task of the project. `make` alone prints them.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
UV_VERSION := 0.13.9
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
# Bytecode is kept whatever the caller's shell says: else each of the hundreds of processes of a test run compiles all that
# it imports, which takes it longer than its work.
unexport PYTHONDONTWRITEBYTECODE
DATA ?= ../shared/data
export ODDSTREAM_REAL_DATA ?= $(DATA)

## Use it

.PHONY: run
run: .venv/run.stamp ## start everything: embedded services, pipeline, gRPC on 50051, operations on 9464
	@exec $(BIN)/oddstream-server run

.PHONY: test
test: .venv/dev.stamp ## the test ladder: parallel, random order, branch coverage gate; without the reliability tests
	@$(BIN)/python -m pytest -n $(or $(JOBS),3) --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=80 --ignore=tests/reliability $(ARGS)

.PHONY: test-reliability
test-reliability: .venv/dev.stamp ## the reliability tests in their short form: real processes, killed, stopped, cut off (the long ones: drill-...)
	@$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist worksteal tests/reliability $(ARGS)

.PHONY: test-oracles
test-oracles: .venv/dev.stamp ## figures beside empyrical and scikit-learn, rates beside polars, in an environment of their own
	@UV_PROJECT_ENVIRONMENT=.venv-oracle $(BIN)/uv sync -q --frozen --group oracle
	@.venv-oracle/bin/python -m pytest -n 0 -m oracle tests/backtesting/test_figures.py tests/backtesting/test_recorded_worlds.py $(ARGS)

.PHONY: test-public-oracle
test-public-oracle: .venv/dev.stamp ## the backtest engine beside nautilus_trader, in an environment of its own: fills, cash, profit to 0.01 cents
	@UV_PROJECT_ENVIRONMENT=.venv-public-oracle $(BIN)/uv sync -q --frozen --group public-oracle
	@.venv-public-oracle/bin/python -m pytest -n 0 tests/backtesting/test_public_oracle.py $(ARGS)

## Measure it

.PHONY: bench-backtest
bench-backtest: .venv/dev.stamp ## the backtest engine against numpy.sum, a hand-made loop, vectorbt, hftbacktest (CHECK=1 fails on a miss)
	@UV_PROJECT_ENVIRONMENT=.venv-bench $(BIN)/uv sync -q --frozen --group bench || echo "the bench group can't be installed; the other engines are left out"
	@PYTHON=.venv-bench/bin/python; [ -x $$PYTHON ] || PYTHON=$(BIN)/python; exec $$PYTHON -m loadtests.backtest

.PHONY: bench-unary
bench-unary: .venv/dev.stamp ## a unary call beside a bare gRPC echo and FastAPI; pages at 1M and 10M rows (CHECK=1 fails where an aim is missed, QUICK=1)
	@$(BIN)/uv sync -q --locked --inexact --group bench-web
	@$(BIN)/python -m loadtests.unary

.PHONY: bench-stream
bench-stream: .venv/dev.stamp ## the signal stream beside naive grpc.aio and websockets; a tick's way to a subscriber (CHECK=1, QUICK=1)
	@$(BIN)/uv sync -q --locked --inexact --group bench-web
	@$(BIN)/python -m loadtests.stream

.PHONY: drill-stream
drill-stream: .venv/dev.stamp ## the stream's reliability tests in full: 50 kills, 30 s without Redis and of a stopped leader, 3,000 clients
	@ODDSTREAM_DRILL=long $(BIN)/python -m pytest -n 0 -s tests/reliability/streams $(ARGS)

.PHONY: drill-backtests
drill-backtests: .venv/dev.stamp ## 50 backtests while workers are killed 20 times, 10 cancels, strategies that misbehave, servers that restart
	@ODDSTREAM_DRILL=long $(BIN)/python -m pytest -n 0 -s tests/reliability/backtests $(ARGS)

.PHONY: drill-rotation
drill-rotation: .venv/dev.stamp ## database passwords changed every 5 s for 60 s under load, then the Vault stopped: 0 failed calls
	@ODDSTREAM_DRILL_SECONDS=60 ODDSTREAM_DRILL_PAUSE_SECONDS=5 $(BIN)/python -m pytest -q -n0 -s tests/reliability/test_secret_rotation.py

.PHONY: drill-edge
drill-edge: .venv/dev.stamp ## one limit over processes, Redis away; 10,000 malformed bodies, 200 slow callers, large bodies and headers
	@ODDSTREAM_DRILL=long $(BIN)/python -m pytest -n 0 -s tests/reliability/test_limiter.py tests/reliability/test_hostile_callers.py $(ARGS)

.PHONY: backtest-report
backtest-report: .venv/dev.stamp ## strategies on recorded data into docs/backtests.md (CHECK=1 fails where its table differs)
	@$(BIN)/python -m loadtests.backtest.report

.PHONY: drill-real-data
drill-real-data: .venv/dev.stamp ## signals on all recorded ladders and on every market of a recorded day, twice, byte for byte
	@ODDSTREAM_DRILL=long $(BIN)/python -m pytest -n 0 -s tests/pipeline/test_real_data.py $(ARGS)

.PHONY: bench-import
bench-import: .venv/dev.stamp ## import of recorded quotes against the server's own COPY (CHECK=1 fails where an aim is missed)
	@$(BIN)/python -m loadtests.import_bench $(DATA)

## Work on it

.PHONY: setup
setup: .venv/dev.stamp ## the environment with every tool

.PHONY: lint
lint: .venv/dev.stamp lint-proto ## ruff, mypy --strict, import contracts, protos
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy server/oddstream_server clients/python/oddstream
	@$(BIN)/lint-imports
	@$(BIN)/uv lock --check -q

.PHONY: proto
proto: .venv/dev.stamp ## generate the stubs and the descriptor set from the protos
	@$(BIN)/uv run -q --script proto/generate.py

.PHONY: lint-proto
lint-proto: .venv/dev.stamp ## the contract: lint, format, compatibility with the last release, generated code up to date
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/buf breaking --against proto/releases/v0.1.0.binpb --exclude-imports
	@$(BIN)/uv run -q --script proto/generate.py --check

.PHONY: format
format: .venv/dev.stamp ## rewrite code and protos in the house's format
	@$(BIN)/ruff format -q .
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/buf format -w

.PHONY: clean
clean: ## remove the environment and caches; the data folder stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

.PHONY: help
help: ## this page
	@awk '/^## /{printf "\n%s\n", substr($$0,4)} /^[a-z-]+:.*## /{split($$0,a,":.*## "); printf "  make %-18s %s\n", a[1], a[2]}' $(MAKEFILE_LIST)

# --- the environment -------------------------------------------------------------------------------------------------

.venv/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "making the environment in .venv ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)

.venv/run.stamp: uv.lock pyproject.toml server/pyproject.toml clients/python/pyproject.toml | .venv/bin/uv
	@echo "installing the locked dependencies (about 210 MB the first time) ..."
	@$(BIN)/uv sync -q --locked --inexact --no-dev
	@touch $@

.venv/dev.stamp: uv.lock pyproject.toml server/pyproject.toml clients/python/pyproject.toml | .venv/bin/uv
	@echo "installing the locked dependencies and tools ..."
	@$(BIN)/uv sync -q --locked --inexact
	@touch $@ .venv/run.stamp
