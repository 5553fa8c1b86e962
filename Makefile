# Start with `make demo` and `make test`. Each target installs what it needs.
.PHONY: help demo test test-quick test-cluster chaos control-plane bench bench-peers lint format types imports docs site release-check lock clean setup databases node pm2 systemd webservers chromium prometheus packager yt-dlp-tests tools manifests image test-node test-node-quick
BIN := .venv/bin
# Most tests wait for servers, clocks and processes most of the time: three run at once on two cores.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile
# These wait for kubelet, scheduler and timeouts. The longest come first; the last ones need the node alone.
NODE_TESTS := $(BIN)/pytest -n 4 --dist load --maxschedchunk 1 --timeout 1800 tests/cluster/test_harness.py tests/node

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## Create .venv from the lock file
	@scripts/setup

demo: setup ## Show the four cases of the contract on this machine; WEB=1 keeps the page open
	@$(BIN)/python -m examples.demo $(if $(WEB),--web)

test: setup databases node pm2 systemd webservers chromium prometheus packager yt-dlp-tests tools lint types imports site ## Check everything and run all tests except those on a cluster
	@$(BIN)/python -m scripts.docs.settings --check docs/settings.md
	@$(BIN)/python -m scripts.docs.reasons --check docs/reasons.md
	@$(BIN)/python -m scripts.docs.reasons --json --check docs/reasons.json
	@$(BIN)/python -m scripts.docs.chart_readme --check charts/enrollgate/README.md
	@$(BIN)/python -m scripts.monitoring.alerts --check charts/enrollgate/monitoring/alerts.yaml
	@$(BIN)/python -m scripts.monitoring.dashboard --check charts/enrollgate/monitoring/dashboard.json
	@$(BIN)/python -m scripts.manifests --check
	@$(BIN)/python -m scripts.docs.destinations --check docs/destinations.md
	@$(BIN)/python -m benchmarks.page --check docs/benchmarks.md
	@$(PYTEST)

test-quick: setup tools ## Run the quick tests (under 3 minutes), and list what they leave out
	@$(BIN)/pytest --quick tests/unit tests/chart tests/integration/test_*.py
	@echo "Left out, too: tests/integration/{drive,launchers,web,worker}, tests/image, tests/e2e, tests/chaos, tests/cluster"

test-cluster: setup databases control-plane ## Run the tests on a real Kubernetes control plane
	@$(BIN)/pytest tests/cluster

test-node: setup databases webservers tools ## Run the tests on a real node: kubelet, containerd and our own image (as root; builds Kubernetes once)
	@scripts/real-node $(NODE_TESTS)

test-node-quick: setup databases webservers tools ## Run the tests on a real node, without those that take minutes each
	@scripts/real-node $(NODE_TESTS) -m "not slow_node"

chaos: setup databases ## Run 200 tasks while everything is killed, frozen and refused at random
	@ENROLLGATE_CHAOS_TASKS=$${ENROLLGATE_CHAOS_TASKS:-200} \
	ENROLLGATE_CHAOS_SEED=$${ENROLLGATE_CHAOS_SEED:-$$(date +%s)} $(BIN)/pytest -s tests/chaos

control-plane: ## Build etcd and the Kubernetes programs for the tests (once, about ten minutes)
	@[ -n "$$ENROLLGATE_TEST_KUBECONFIG" ] || scripts/control-plane >/dev/null || true

databases: ## Install the database servers for the tests
	@scripts/mariadb >/dev/null || true
	@scripts/mysql >/dev/null || true
	@scripts/faketime >/dev/null || true

webservers: ## Install the web servers and download programs for the tests
	@scripts/webservers >/dev/null || true

chromium: ## Install Chromium and axe-core for the tests of the page
	@scripts/chromium >/dev/null || true

prometheus: ## Fetch Prometheus for the tests of the alert rules and the dashboard
	@scripts/prometheus >/dev/null || true

packager: setup ## Fetch the packager that makes streams for the tests
	@scripts/packager >/dev/null || true

yt-dlp-tests: setup ## Fetch yt-dlp's own tests, which run on our request handler
	@scripts/yt-dlp-tests >/dev/null || true

node: ## Install Node.js and npm for the tests
	@scripts/node >/dev/null || true

pm2: ## Install pm2 for the tests
	@scripts/pm2 >/dev/null || true

systemd: ## Install systemd-analyze for the tests
	@scripts/systemd >/dev/null || true

tools: setup ## Install helm and kubectl for the tests
	@scripts/helm-kubectl >/dev/null

bench: setup databases tools control-plane ## Run all benchmarks (about an hour and a half)
	@$(BIN)/python -m benchmarks

bench-peers: setup databases tools control-plane ## Measure Enrollgate beside KEDA, Prefect and a plain poll loop (about 80 minutes; builds KEDA once)
	@$(BIN)/python -m benchmarks peers

lint: setup ## Check code, Dockerfile and workflows with ruff, hadolint, actionlint and our own measures
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/hadolint Dockerfile
	@$$(scripts/actionlint)
	@$(BIN)/python -m scripts.metrics

format: setup ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

types: setup ## Check the types with mypy
	@$(BIN)/mypy

imports: setup ## Check which layer imports which
	@$(BIN)/lint-imports --config pyproject.toml

manifests: setup tools ## Render manifests/base from the chart
	@$(BIN)/python -m scripts.manifests

docs: setup ## Generate the pages that come from code (settings, reasons, destinations, benchmarks, chart, alerts, dashboard)
	@$(BIN)/python -m scripts.docs.settings > docs/settings.md
	@$(BIN)/python -m scripts.docs.reasons > docs/reasons.md
	@$(BIN)/python -m scripts.docs.reasons --json > docs/reasons.json
	@$(BIN)/python -m scripts.docs.destinations > docs/destinations.md
	@$(BIN)/python -m benchmarks.page > docs/benchmarks.md
	@$(BIN)/python -m scripts.docs.chart_readme > charts/enrollgate/README.md
	@$(BIN)/python -m scripts.monitoring.alerts > charts/enrollgate/monitoring/alerts.yaml
	@$(BIN)/python -m scripts.monitoring.dashboard > charts/enrollgate/monitoring/dashboard.json

site: setup ## Build the documentation site in build/site; fails on a broken link
	@$(BIN)/python -m scripts.docs.site

release-check: setup tools ## Rehearse a release without publishing: TAG=v0.1.0 checks the tag, too
	@$(BIN)/python -m scripts.release_check $(if $(TAG),--tag $(TAG))

image: setup ## Build the image's root folder in .cache without a container engine (as root, on Debian)
	@$(BIN)/python tests/image/image_root.py

lock: setup ## Pin the dependencies again
	@scripts/lock

clean: ## Remove everything that other targets created
	@rm -rf .venv .cache build demo-output var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
