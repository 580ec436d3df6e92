# `make test` and `make demo` work on a fresh Debian 12 with Rust: each says what it installs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

# How many seeds the simulation plays where SEEDS says nothing: in `make test`, and in `make sim`.
TEST_SEEDS = $(or $(SEEDS),1000)
SIM_SEEDS = $(or $(SEEDS),10000)
# How long each fuzz target runs, seconds.
FUZZ_SECONDS ?= 60

# gcc and libc6-dev link the programs; the cryptography library brings C and assembler.
BUILD_PACKAGES := gcc libc6-dev
SERVER_PACKAGES := postgresql-15 postgresql-15-pglogical
# chrony is unpacked, not installed: it would take over this machine's clock. These are its
# libraries.
CHRONY_LIBRARIES := libcap2 libedit2 libgnutls30 libnettle8 libseccomp2
# iproute2 and nftables make the tests' networks, libfaketime shifts clocks.
TEST_PACKAGES := $(BUILD_PACKAGES) $(SERVER_PACKAGES) pgbackrest iproute2 nftables libfaketime $(CHRONY_LIBRARIES)
# mmdebstrap bakes the machines' image, systemd-nspawn boots it.
# libfaketime shifts the clock of one program.
BOOT_PACKAGES := $(TEST_PACKAGES) mmdebstrap systemd-container libfaketime

NEXTEST := $(shell command -v cargo-nextest)
ifdef NEXTEST
RUN_TESTS = cargo nextest run
# The whole workspace, as `build` builds it: one package alone has other features, and would be
# compiled anew.
RUN_BOOT = cargo nextest run --workspace --ignore-default-filter --test boot
else
# Whole machines are left to `make boot-test` here as well.
RUN_TESTS = cargo test
NOT_BOOT = -- --skip booted::
# One thread: the scenarios share one machine.
RUN_BOOT = cargo test --workspace --test boot -- --test-threads 1 --nocapture
endif

.PHONY: help test packages build format lint check-tests boot-packages boot-test boot-soak deb demo bench sim fuzz

help:
	@echo "make test         everything that has to pass: build, format, lints, simulation, real servers (root)"
	@echo "make boot-test    whole machines with systemd and cloud-init, from one image to a mesh (root)"
	@echo "make boot-soak    twenty such boots in a row"
	@echo "make deb          the Debian package, in target/debian"
	@echo "make demo         three nodes on this machine that become a mesh"
	@echo "make sim          the simulation with 10,000 seeds, or SEEDS=n"
	@echo "make bench        formation, joins, verify, conflicts, rest and overhead, as ratios in one run (root)"
	@echo "make fuzz         each fuzz target for FUZZ_SECONDS (nightly Rust)"

test: packages format build lint check-tests

packages:
	@.ci/install-packages $(TEST_PACKAGES)
	@.ci/unpack-chrony
	@.ci/s3-server

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
	@echo "== tests, simulation with $(TEST_SEEDS) seeds, real servers"
	SEEDS=$(TEST_SEEDS) $(RUN_TESTS) --workspace $(NOT_BOOT)
	cargo test --workspace --doc

boot-packages:
	@.ci/install-packages $(BOOT_PACKAGES)

# The machines get the package of the agent that was just built, not optimised.
boot-test: boot-packages build
	@.ci/boot-image >/dev/null
	@.ci/postgres-minors >/dev/null
	@.ci/timesyncd >/dev/null
	@echo "== whole machines"
	$(RUN_BOOT)

# How many foundings the longer test watches.
BOOTS ?= 20

boot-soak: boot-packages build
	@.ci/boot-image >/dev/null
	for boot in $$(seq $(BOOTS)); do \
	    echo "== boot $$boot of $(BOOTS)"; \
	    $(RUN_BOOT) three_machines_become_one_mesh; \
	done

deb:
	@.ci/install-packages $(BUILD_PACKAGES)
	cargo build --release -p pgaa-agent
	packaging/deb/build

sim:
	SEEDS=$(SIM_SEEDS) $(RUN_TESTS) -p pgaa-tests --test sim

# As `build` builds it: what a package is optimised for takes three times as long, and shows
# nothing here.
demo:
	@.ci/install-packages $(BUILD_PACKAGES) $(SERVER_PACKAGES)
	@echo "Building the agent."
	cargo build --workspace --bins
	target/debug/pgaa-agent demo

bench:
	@.ci/install-packages $(TEST_PACKAGES)
	cargo build --release -p pgaa-agent
	cargo build -p pgaa-tests --bins
	PGAA_TEST_AGENT=$(CURDIR)/target/release/pgaa-agent target/debug/pgaa-bench

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
