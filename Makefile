# One-word tasks. `make demo` and `make test` are all a newcomer needs; both set up what they use.
.PHONY: help demo test bench lint format types imports docs lock clean setup databases
BIN := .venv/bin

help: ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Make .venv from the lock
	@scripts/setup

demo: setup ## Show the four cases live on this machine
	@$(BIN)/enrollgate demo

test: setup databases lint types imports ## Check everything and run all tests
	@$(BIN)/python -m enrollgate.settings_docs --check docs/settings.md
	@$(BIN)/python -m enrollgate.reasons_docs --check docs/reasons.md
	@$(BIN)/python -m enrollgate.destinations_docs --check docs/destinations.md
	@$(BIN)/pytest

databases: ## See to it that the database servers for the tests are here
	@scripts/mariadb >/dev/null || true
	@scripts/mysql >/dev/null || true

bench: setup databases ## Measure, side by side
	@$(BIN)/python -m benchmarks

lint: setup ## ruff
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .

format: setup ## Format and mend what can be mended by itself
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

types: setup ## mypy, strict
	@$(BIN)/mypy

imports: setup ## The import contracts
	@$(BIN)/lint-imports --config pyproject.toml

docs: setup ## Generate docs/settings.md, docs/reasons.md and docs/destinations.md
	@$(BIN)/python -m enrollgate.settings_docs > docs/settings.md
	@$(BIN)/python -m enrollgate.reasons_docs > docs/reasons.md
	@$(BIN)/python -m enrollgate.destinations_docs > docs/destinations.md

lock: setup ## Pin the dependencies anew
	@scripts/lock

clean: ## Remove what the other tasks made
	@rm -rf .venv .cache build demo-output var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
