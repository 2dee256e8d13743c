# Each target installs what it needs. All targets can be run repeatedly.

CACHE := $(or $(TALLY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tally)
export PATH := $(CACHE)/tools/bin:$(PATH)
BINARY := target/release/tally

# Parallel builds would write the same files.
.NOTPARALLEL:
.PHONY: run watch test setup release contract e2e test-browsers bench soak fuzz lint format clean help

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run watch: ## run the app on http://127.0.0.1:3000, and rebuild and reload it on changes
	@scripts/setup run
	@echo "==> http://127.0.0.1:3000, sessions in $${SESSION_STORE:-$${REDIS_URL:-data/sessions.sqlite3 (SQLite)}}"
	@echo "    with Redis: SESSION_STORE=redis://127.0.0.1:6379 make run. The first build takes a few minutes."
	cargo leptos watch

test: ## run everything: lint, release build, unit, contract and browser tests
	@$(MAKE) --no-print-directory lint release contract e2e test-browsers

setup:
	@scripts/setup test

release: ## build target/release/tally, the server with the embedded site
	@scripts/setup run
	cargo leptos build --release --frontend-only
	cargo leptos build --release --server-only

contract: setup ## run the unit tests, and the contract tests over HTTP against the release binary
	ulimit -n 20000 2>/dev/null; TALLY_BINARY="$(CURDIR)/$(BINARY)" cargo test --workspace --features tally/ssr,tally-session/metrics

e2e: setup ## run the browser tests against the release binary, and against the login example
	cargo build -p tally-session --example login
	cd end2end && TALLY_BINARY="$(CURDIR)/$(BINARY)" npx playwright test

test-browsers: ## run a smoke test in Firefox and in WebKit, against the release binary
	@scripts/setup browsers
	TALLY_BINARY="$(CURDIR)/$(BINARY)" node end2end/browsers/smoke.mjs

bench: release ## compare with Django, Express and a bare axum handler, and measure a first visit (five minutes)
	@scripts/setup bench
	cargo build --features ssr --example grow --example fill
	node "$(CACHE)/bench/browser/first-visit.mjs" "$(CURDIR)/$(BINARY)" "$$(node end2end/browser.mjs)"
	TALLY_BENCH_CACHE="$(CACHE)/bench" python3 benches/bench.py
	TALLY_BENCH_CACHE="$(CACHE)/bench" python3 benches/bench.py sql

soak: release setup ## run long tests of faults, generated requests and memory (half an hour)
	@scripts/setup bench
	cargo build --features ssr --examples
	ulimit -n 20000 2>/dev/null; TALLY_SOAK=5 TALLY_BINARY="$(CURDIR)/$(BINARY)" \
	  cargo test --features ssr,soak --test it -- faults bad_input live load --nocapture --test-threads=1
	TALLY_BENCH_CACHE="$(CACHE)/bench" python3 benches/bench.py memory

fuzz: release ## fuzz the parsers of untrusted input (one minute each)
	@scripts/setup fuzz
	RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$(CACHE)/fuzz" cargo fuzz run --sanitizer none cookie -- -max_total_time=60
	RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$(CACHE)/fuzz" cargo fuzz run --sanitizer none settings -- -max_total_time=60

lint: setup ## check formatting, clippy for the server and the browser, and the end2end folder
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --workspace --features tally/ssr,tally-session/metrics --all-targets -- -D warnings
	cargo clippy -p tally-session --all-targets -- -D warnings
	for engine in postgres redis sqlite; do cargo clippy -p tally-session --features $$engine -- -D warnings || exit 1; done
	cargo clippy -p tally-console --all-targets -- -D warnings
	cargo clippy --features hydrate --lib --target wasm32-unknown-unknown -- -D warnings
	cd end2end && npm run --silent lint

format: setup ## format the code
	cargo fmt --all
	cd end2end && npm run --silent format

clean: ## remove build artifacts
	cargo clean
