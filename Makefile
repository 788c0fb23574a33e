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
	@echo "make bench  the benchmarks; BENCH=NAME runs one (BENCH_FLAGS=--quick, --help)"
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

# One benchmark; results go to bench/results. Those of the first list drive three stores on loopback, those of the second
# have stores or engines in their own process.
CLUSTER_BENCHES = ycsb etcd idle failover restart slowdisk amplification changes overload soak
PROCESS_BENCHES = groups engine

ifneq ($(filter $(BENCH),$(CLUSTER_BENCHES)),)
bench: build
	@$(WITH_ENV) cargo build --locked --release --package flotilla-bench --bin cluster
ifeq ($(BENCH),slowdisk)
	@$(WITH_ENV) cargo build --locked --release --package flotilla-tests --features planted --bin flotilla-planted
endif
	@$(CARGO_TARGET_DIR)/release/cluster $(BENCH) $(BENCH_FLAGS)
else ifneq ($(filter $(BENCH),$(PROCESS_BENCHES)),)
bench: $(ROCKSDB)
	@$(WITH_ENV) cargo bench --locked --package flotilla-bench --bench in_process -- $(BENCH) $(BENCH_FLAGS)
else ifeq ($(BENCH),raft_core)
bench: $(ROCKSDB)
	@$(WITH_ENV) cargo bench --locked --package flotilla-bench --bench raft_core -- $(BENCH_FLAGS)
else
bench:
	@echo "make bench BENCH=NAME [BENCH_FLAGS=--quick]; bench/results/README.md shows results"
	@echo "  ycsb           YCSB A to F, pure puts, gets and scans                    4 minutes"
	@echo "  etcd           puts and linearizable gets beside etcd                    10 minutes"
	@echo "  engine         entries logged and applied without Raft: the limit        3 minutes"
	@echo "  groups         replicated writes in one process by active regions        5 minutes"
	@echo "  idle           regions at rest: CPU, messages, bytes, memory             8 minutes"
	@echo "  failover       kill -9 of a store that leads thousands of regions        8 minutes"
	@echo "  restart        from the start of a store, and of all, to service         10 minutes"
	@echo "  slowdisk       one disk of three with slow syncs                         3 minutes"
	@echo "  amplification  bytes to disks for each byte of clients, syncs            4 minutes"
	@echo "  raft_core      the consensus core beside TiKV's crate raft 0.7           3 minutes"
	@echo "  changes        what clients see of splits, merges and transfers          5 minutes"
	@echo "  overload       memory under ten times the load, one store standing still  7 minutes"
	@echo "  soak           saturating load without a fault: do leaders stay          11 minutes"
endif
