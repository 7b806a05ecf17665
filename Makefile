# Everything that builds, runs, checks or measures Lyss. `make help` lists it.
CONFIG ?= examples/gateway.yaml
LYSS = cargo run --release -p lyss-http --bin lyss --

.DEFAULT_GOAL := help
.PHONY: help run run-gateway migrate test test-rust test-python test-node test-clients test-model chaos lint fuzz bench

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Start the gateway with no configuration: SQLite, keys from the environment, http://127.0.0.1:8000
	$(LYSS)

run-gateway: ## Start it with CONFIG (examples/gateway.yaml)
	$(LYSS) serve --config $(CONFIG)

migrate: ## Apply the database migrations of CONFIG
	$(LYSS) migrate --config $(CONFIG)

test: ## Run every test: installs what is missing, starts its own PostgreSQL and Redis
	tests/run.sh all

test-rust: ## Run the Rust tests only (the shared cases need both packages, which are built)
	tests/run.sh rust

test-python: ## Build the Python package below target/ and run its tests only
	tests/run.sh python

test-node: ## Build the Node package and run its tests only
	tests/run.sh node

test-clients: ## Run the official SDKs against the built gateway only
	tests/run.sh clients

test-model: ## Hold a conversation with a real language model behind the gateway (installs it: 180 MB)
	cargo build -p lyss-http --bin lyss
	tests/model/run.sh

chaos: ## Kill, stop and empty everything under load, then audit the bills (some ten minutes; sizes: docs/contributing.md)
	tests/run.sh chaos

lint: ## Formatting, clippy, docs, licences, nothing of one machine: warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p lyss-core --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet
	python3 tests/lint/licences.py
	tests/lint/portable.sh

fuzz: ## Fuzz the readers of JSON and SSE for a short while (needs a nightly toolchain)
	tests/fuzz.sh

bench: ## Measure Lyss beside nginx, and in the process beside other clients (half an hour); writes docs/performance.md. Try it: tests/load/bench.py --quick
	tests/services/install.sh bench
	python3 tests/load/bench.py
	python3 tests/load/in_process.py
