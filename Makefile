# One-word tasks. `make demo` and `make test` are all a newcomer needs; both set up what they use.
.PHONY: help demo test test-cluster control-plane bench lint format types imports docs lock clean setup databases node tools manifests image
BIN := .venv/bin

help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## Make .venv from the lock
	@scripts/setup

demo: setup ## Show the four cases live on this machine
	@$(BIN)/python -m examples.demo

test: setup databases node tools lint types imports ## Check everything and run all tests but those on a cluster
	@$(BIN)/python -m scripts.docs.settings --check docs/settings.md
	@$(BIN)/python -m scripts.docs.reasons --check docs/reasons.md
	@$(BIN)/python -m scripts.docs.chart_readme --check charts/enrollgate/README.md
	@$(BIN)/python -m scripts.manifests --check
	@$(BIN)/python -m scripts.docs.destinations --check docs/destinations.md
	@$(BIN)/python -m benchmarks.page --check docs/benchmarks.md
	@$(BIN)/pytest

test-cluster: setup databases control-plane ## Run the tests on a real Kubernetes control plane
	@$(BIN)/pytest tests/cluster

control-plane: ## See to it that etcd and the Kubernetes programs for the tests are here (built once, some minutes)
	@[ -n "$$ENROLLGATE_TEST_KUBECONFIG" ] || scripts/control-plane >/dev/null || true

databases: ## See to it that the database servers for the tests are here
	@scripts/mariadb >/dev/null || true
	@scripts/mysql >/dev/null || true

node: ## See to it that Node.js and npm for the tests are here
	@scripts/node >/dev/null || true

tools: setup ## See to it that helm and kubectl for the tests are here
	@scripts/helm-kubectl >/dev/null

bench: setup databases tools control-plane ## Measure, side by side (about an hour)
	@$(BIN)/python -m benchmarks

lint: setup ## ruff, hadolint
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/hadolint Dockerfile

format: setup ## Format and mend what can be mended by itself
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

types: setup ## mypy, strict
	@$(BIN)/mypy

imports: setup ## The import contracts
	@$(BIN)/lint-imports --config pyproject.toml

manifests: setup tools ## Render manifests/base from the chart
	@$(BIN)/python -m scripts.manifests

docs: setup ## Generate docs/settings.md, reasons.md, destinations.md, benchmarks.md and the chart's README
	@$(BIN)/python -m scripts.docs.settings > docs/settings.md
	@$(BIN)/python -m scripts.docs.reasons > docs/reasons.md
	@$(BIN)/python -m scripts.docs.destinations > docs/destinations.md
	@$(BIN)/python -m benchmarks.page > docs/benchmarks.md
	@$(BIN)/python -m scripts.docs.chart_readme > charts/enrollgate/README.md

image: setup ## Build the image's root folder into .cache, without a container engine (as root, on Debian)
	@$(BIN)/python tests/image/image_root.py

lock: setup ## Pin the dependencies anew
	@scripts/lock

clean: ## Remove what the other tasks made
	@rm -rf .venv .cache build demo-output var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
