# Everything a stranger needs. `make` alone prints this list.
# Each target installs what it is missing (scripts/setup.sh) and then calls cargo.

CARGO := scripts/cargo.sh
DEMO_FLAGS ?=
TEST_FLAGS ?=
BENCH_FLAGS ?=
# Tests call ip and iptables, also for a user whose PATH has no sbin.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo build test test-servers bench lint docs ci cost-check image-check deploy-check fresh-check clean

help: ## print this list
	@echo "pointsman: a failover-aware proxy for Redis and Valkey"
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## start Redis nodes and pointsman, break things, show what clients see
	@scripts/setup.sh test
	@# Not optimised: that takes a third of the time to build, and the pauses are the same.
	$(CARGO) build --locked --bin pointsman
	@target/debug/pointsman demo $(DEMO_FLAGS)

build: ## the release binary, target/release/pointsman
	@scripts/setup.sh build
	$(CARGO) build --locked --release --bin pointsman

test: ## all tests, with real redis-server processes
	@scripts/setup.sh test
	@scripts/clients.sh
	$(CARGO) test --locked --no-fail-fast $(TEST_FLAGS)

test-servers: ## the tests that matter, on Redis 6.0 and 8.0 and Valkey 8.1
	@scripts/setup.sh test
	@WITH_ALL=1 scripts/servers.sh test || [ $$? = 77 ]

bench: ## micro benches, traffic against direct Redis, and the failover bench
	@scripts/setup.sh test
	$(CARGO) bench --locked $(BENCH_FLAGS)

lint: ## formatting, clippy, shell scripts; warnings are errors
	@scripts/setup.sh lint
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@scripts/check-shell.sh

docs: ## the library's documentation, target/doc/pointsman/index.html
	@scripts/setup.sh build
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

ci: ## what must pass before a change lands (.ci/run)
	@.ci/run

cost-check: ## count the instructions of a request, compare with docs/performance.md
	@scripts/setup.sh test
	@scripts/check-instructions.sh

image-check: ## build the container image without a registry, run it, ask it PING
	@scripts/check-image.sh

deploy-check: ## parse everything in deploy/, check metric names in the alert rules
	@FETCH_PROMTOOL=1 scripts/check-deploy.sh

fresh-check: ## make test and make demo in a new, bare Debian 12
	@scripts/check-fresh.sh

clean: ## remove what was built
	rm -rf target fuzz/target
