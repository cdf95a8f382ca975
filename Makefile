# `make help` lists what can be done. Everything lands in .venv and .engines, nothing elsewhere,
# but for the packages that `make engines` installs on Debian and Ubuntu.

PYTHON ?= python3
BIN := .venv/bin

# Tests side by side, each process with servers of its own.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist worksteal

export PYTHON
.DEFAULT_GOAL := help
.PHONY: help demo test guarantees long torture pgbench-demo engines lint format bench bench-engines \
	base dev clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r t h; do \
		printf '%-22s%s\n' "$$t" "$$h"; done

demo: base ## the mistakes of event-driven systems and their cures, side by side; no server needed
	@$(BIN)/oncebox demo

test: dev engines lint ## the whole suite, on real PostgreSQL and Kafka that it starts and stops
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

guarantees: dev engines ## the whole suite, which writes docs/guarantees.md
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) --guarantees=docs/guarantees.md

long: dev engines ## the tests that take too long for every day
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m long

pgbench-demo: dev engines ## pgbench's workload into a second database, under faults; PGBENCH="--transactions 5000" for less
	@$(BIN)/python -m pgbench_demo $(PGBENCH)

torture: dev engines ## a thousand faults on PostgreSQL and Kafka, about an hour; run it again to resume
	@PYTHONPATH=tests $(BIN)/python -m torture --report docs/torture.md $(ARGUMENTS)

engines: ## fetch the servers that the suite runs: PostgreSQL 14 to 18, Kafka
	@$(PYTHON) tools/engines/prepare.py

lint: dev ## style and types: ruff, mypy, pyright
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/pyright

format: dev ## let ruff mend what it can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: dev ## measure what runs in the process: the core, and everything on SQLite
	@$(BIN)/python -m bench

bench-engines: dev engines ## measure on PostgreSQL and Kafka
	@$(BIN)/python -m bench --engines

base:
	@tools/setup.sh base

dev:
	@tools/setup.sh dev

clean: ## remove what make made
	rm -rf .venv .engines build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
