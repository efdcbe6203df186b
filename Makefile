# Mainstay: `make up` runs it, `make test` tests it; both do all set-up first.
SHELL := /bin/bash
CARGO ?= cargo
DATA_DIR ?= /var/lib/mainstay
PROFILE ?= release
BIN := target/release/mainstay

.PHONY: help setup setup-clients setup-guest interop build up down test test-all lint check fix bench oracle fuzz clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: ## Install missing distribution packages (needs root)
	@scripts/setup

setup-clients: ## Install what only the tests need, and the pinned clients that they drive
	@scripts/setup-clients

setup-guest: ## Install an emulator and a kernel for the tests in an emulated machine
	@scripts/setup-guest

build: ## Build the binary; what running it needs is installed meanwhile
	@scripts/setup build
	@scripts/setup & installing=$$!; $(CARGO) build --release --locked -p mainstay; built=$$?; wait $$installing && exit $$built

up: build ## Start everything in examples/local/ on this machine
	$(BIN) up -f examples/local/ --data-dir $(DATA_DIR)

down: ## Stop and undo everything that `make up` made
	@if [ -x $(BIN) ]; then $(BIN) down --yes --data-dir $(DATA_DIR); else echo "nothing built, so nothing to undo"; fi

test: setup setup-clients ## Unit, integration and essential end-to-end tests (about 20 minutes on 2 cores)
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --locked

test-all: setup setup-clients setup-guest ## Everything, with the full figures of crash, fuzz and load tests
	$(CARGO) build --workspace --all-targets --locked
	MAINSTAY_TEST_TIER=full $(CARGO) test --workspace --locked

lint: ## Formatting, clippy and the house rules; writes nothing
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) xtask tidy

check: lint ## Same as lint

fix: ## Format and regenerate
	$(CARGO) fmt --all
	$(CARGO) xtask generate

bench: setup ## Print the figures of every benchmark
	$(CARGO) xtask bench all

oracle: ## Run every oracle table
	$(CARGO) xtask oracle $${ORACLE:-testdata/oracle}

fuzz: ## Feed each parser with damaged input for $$SECONDS_EACH (600) seconds
	$(CARGO) build --locked -p checks --bin checks
	target/debug/checks fuzz --seconds $${SECONDS_EACH:-600} $(PARSER)

interop: setup setup-clients ## Build upstream's programs (half an hour, once) and prove ours against them
	scripts/build-interop
	$(CARGO) build --locked -p mainstay -p checks --bin mainstay
	$(CARGO) test --locked -p checks --features interop --test it interop::
