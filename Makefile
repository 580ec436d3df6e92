# `make test` and `make demo` work on a fresh Debian 12 with Rust: each says what it installs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

# How many seeds the simulation plays.
SEEDS ?= 2000
# How long each fuzz target runs, seconds.
FUZZ_SECONDS ?= 60

# gcc and libc6-dev link the programs; the cryptography library brings C and assembler.
BUILD_PACKAGES := gcc libc6-dev
SERVER_PACKAGES := postgresql-15 postgresql-15-pglogical
# iproute2 and nftables make the tests' networks.
TEST_PACKAGES := $(BUILD_PACKAGES) $(SERVER_PACKAGES) iproute2 nftables

NEXTEST := $(shell command -v cargo-nextest)
ifdef NEXTEST
RUN_TESTS = cargo nextest run
else
# One thread: the scenarios share one machine.
RUN_TESTS = cargo test
endif

.PHONY: help test packages build format lint check-tests demo bench sim fuzz

help:
	@echo "make test         everything that has to pass: build, format, lints, simulation, real servers (root)"
	@echo "make demo         three nodes on this machine that become a mesh"
	@echo "make sim SEEDS=n  the simulation with more seeds"
	@echo "make bench        formation, status, memory and overhead, as ratios in one run (root)"
	@echo "make fuzz         each fuzz target for FUZZ_SECONDS (nightly Rust)"

test: packages format build lint check-tests

packages:
	@.ci/install-packages $(TEST_PACKAGES)

build:
	@echo "== build"
	cargo build --workspace --all-targets

format:
	@echo "== format"
	cargo fmt --check

lint:
	@echo "== lints"
	cargo clippy --workspace --all-targets -- -D warnings

# The scenarios start the agent's binary, which `build` makes.
check-tests: build
	@echo "== tests, simulation with $(SEEDS) seeds, real servers"
	SEEDS=$(SEEDS) $(RUN_TESTS) --workspace
	cargo test --workspace --doc

sim:
	SEEDS=$(SEEDS) $(RUN_TESTS) -p pgaa-tests --test sim

demo:
	@.ci/install-packages $(BUILD_PACKAGES) $(SERVER_PACKAGES)
	@echo "Building the agent."
	cargo build --release -p pgaa-agent
	target/release/pgaa-agent demo

bench:
	@.ci/install-packages $(TEST_PACKAGES)
	cargo build --release -p pgaa-agent -p pgaa-tests --bins
	target/release/pgaa-bench

fuzz:
	@.ci/install-packages $(BUILD_PACKAGES) g++
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@rustup toolchain list | grep -q nightly || rustup toolchain install nightly --profile minimal
	cd tests/fuzz && for target in $$(cargo +nightly fuzz list); do \
	    echo "== fuzz $$target, $(FUZZ_SECONDS) s"; \
	    mkdir -p corpus/$$target; \
	    cargo +nightly fuzz run $$target corpus/$$target seeds/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; \
	done
