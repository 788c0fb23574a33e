# Everything a stranger needs: `make demo` and `make test`. Both install or name what is missing, build RocksDB
# once, and keep the build outside the checkout so that it survives a fresh clone.

SHELL := /bin/bash
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flotilla
export CARGO_TARGET_DIR ?= $(CACHE)/target
ROCKSDB = $(CACHE)/rocksdb.env
DEMO_FLAGS ?=

.PHONY: demo test lint build env deps help

help:
	@echo "make demo   three stores on loopback, a kill -9 in the middle of an import, every value checked"
	@echo "make test   all tests"
	@echo "make lint   formatting, clippy, docs"
	@echo "make env    prints the environment for plain cargo: eval \"\$$(make -s env)\""

# Names exactly what is missing, and installs it where that is possible.
deps:
	@.ci/deps

$(ROCKSDB): deps components/engine/build-rocksdb.sh Cargo.lock
	@dir=$$(components/engine/build-rocksdb.sh $(CACHE)) && src=$$(ls -d $${CARGO_HOME:-$$HOME/.cargo}/registry/src/*/$$(basename $$dir | sed 's/-[0-9a-f]*$$//') | head -n 1) && \
	  printf 'export CARGO_TARGET_DIR=%s\nexport ROCKSDB_STATIC=1\nexport ROCKSDB_LIB_DIR=%s\nexport ROCKSDB_INCLUDE_DIR=%s/rocksdb/include\n' "$(CARGO_TARGET_DIR)" "$$dir" "$$src" > $@.tmp && \
	  { cmp -s $@.tmp $@ || cp $@.tmp $@; rm -f $@.tmp; }

env: $(ROCKSDB)
	@cat $(ROCKSDB)

NEXTEST = $(shell cargo nextest --version >/dev/null 2>&1 && echo 'nextest run' || echo test)
WITH_ENV = source $(ROCKSDB) &&

build: $(ROCKSDB)
	$(WITH_ENV) cargo build --locked --release --bin flotilla

test: $(ROCKSDB)
	$(WITH_ENV) cargo $(NEXTEST) --locked --workspace

lint: $(ROCKSDB)
	cargo fmt --all --check
	$(WITH_ENV) cargo clippy --locked --workspace --all-targets -- -D warnings
	$(WITH_ENV) RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
