# Everything a stranger needs: `make demo` and `make test`. Both install or name what is missing, build RocksDB
# once, and keep the build outside the checkout so that it survives a fresh clone.

SHELL := /bin/bash
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flotilla
export CARGO_TARGET_DIR ?= $(CACHE)/target
ROCKSDB = $(CACHE)/rocksdb.env
WITH_ENV = source $(ROCKSDB) &&
DEMO_FLAGS ?=
BENCH_FLAGS ?=

# The published test data of etcd-io/raft, where it lies beside the checkout.
CONFORMANCE = $(wildcard $(abspath ../shared/raft-conformance/testdata))
ifneq ($(CONFORMANCE),)
export RAFT_CONFORMANCE_DIR ?= $(CONFORMANCE)
endif

.PHONY: help demo test lint bench build env deps
.DEFAULT_GOAL := help

help:
	@echo "make demo   three stores on loopback, a kill -9 in the middle of an import, every value checked"
	@echo "            (DEMO_FLAGS=--exit ends it after the check; other flags: flotilla demo --help)"
	@echo "make test   all tests"
	@echo "make lint   formatting, clippy, docs"
	@echo "make bench  three stores on loopback under load (BENCH_FLAGS=--help)"
	@echo "make env    the environment for plain cargo: eval \"\$$(make -s env)\""
	@echo "The build goes to $(CARGO_TARGET_DIR) and survives a fresh clone."

# Names exactly what is missing, and installs it where that is possible.
deps:
	@.ci/deps

$(ROCKSDB): deps components/engine/build-rocksdb.sh Cargo.lock
	@.ci/rocksdb-env $(CACHE) $@

env: $(ROCKSDB)
	@cat $(ROCKSDB)

build: $(ROCKSDB)
	@.ci/say "flotilla, release build (cold: about 10 minutes on two cores)"
	@$(WITH_ENV) cargo build --locked --release --package flotilla-server --bin flotilla

demo: build
	@$(CARGO_TARGET_DIR)/release/flotilla demo $(DEMO_FLAGS)

# The binary and the tests are built by one command, so that they share every dependency and no test meets an
# older binary. Documentation tests come first: the closing lines are those of the tests proper.
test: $(ROCKSDB)
	@.ci/say "the flotilla binary and the tests (cold: about 12 minutes on two cores)"
	@$(WITH_ENV) cargo build --locked --workspace --bins --tests --examples
	@.ci/say "documentation tests"
	@$(WITH_ENV) cargo test --locked --workspace --doc --quiet
	@.ci/say "tests$(if $(CONFORMANCE),, (no ../shared/raft-conformance/testdata: set RAFT_CONFORMANCE_DIR to run the raft conformance files))"
	@$(WITH_ENV) .ci/test

lint: $(ROCKSDB)
	@.ci/say "formatting, clippy, docs"
	@cargo fmt --all --check
	@$(WITH_ENV) cargo clippy --locked --workspace --all-targets -- -D warnings
	@$(WITH_ENV) RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

bench: build
	@$(WITH_ENV) cargo build --locked --release --package flotilla-bench --bin cluster
	@$(CARGO_TARGET_DIR)/release/cluster --spawn --flotilla $(CARGO_TARGET_DIR)/release/flotilla $(BENCH_FLAGS)
