# The few commands to start from; CMake builds (CMakePresets.json), ctest tests.
.DEFAULT_GOAL := help
.PHONY: help deps build run test test-asan test-tsan test-e2e test-fresh test-kernels test-accuracy \
        test-arm64 test-chart test-cluster test-image test-deb test-deploy test-rules test-drill fuzz lint bench \
        test-fleet bench-fleet estimates storm soak picture image deb

# Arguments of the program for `make run`, as in: make run ARGS=--web.listen-address=:9999
ARGS ?=
# The Debian release of `make test-fresh`: bookworm or trixie.
DIST ?= bookworm
# How often `make bench` measures each contender: 10 take some 40 minutes.
BENCH_ROUNDS ?= 10

# How long `make soak` looks.
SOAK_MINUTES ?= 60

# Side by side: one more than there are CPUs, as some of the tests mostly wait.
TEST_JOBS := $(shell echo $$(($$(nproc) + 1)))

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## install the Debian packages that are missing to build and test, as root or by sudo
	@deploy/install-deps build

build: deps ## build the program: build/release/kmem_exporter
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release --target kmem_exporter

run: build ## run it on the live kernel, or on a recorded trace; ARGS='...' are its flags
	@exec deploy/run $(ARGS)

test: deps ## unit and integration tests
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release
	@tests/ctest release -j $(TEST_JOBS)

test-asan: deps ## the same tests with the address and undefined-behaviour sanitizers
	@cmake --preset asan-ubsan --log-level=WARNING >/dev/null
	@cmake --build --preset asan-ubsan
	@tests/ctest asan-ubsan -j $(TEST_JOBS)

# g++ 12's thread sanitizer does not start where the kernel randomises addresses with 32 bits.
test-tsan: deps ## the same tests with the thread sanitizer
	@cmake --preset tsan --log-level=WARNING >/dev/null
	@fixed=$$(setarch -R true 2>/dev/null && echo setarch -R); \
	$$fixed cmake --build --preset tsan && $$fixed tests/ctest tsan -j $(TEST_JOBS)

test-e2e: build ## a real Prometheus scrapes the program (downloaded, not installed)
	@tests/e2e/run

test-rules: build ## rules, alerts, runbooks, dashboards: with promtool and a real Prometheus
	@deploy/install-deps rules
	@tests/rules/run

test-drill: build ## a guest's memory fragments, the alert fires, the remedy ends it (root)
	@deploy/install-deps kernels
	@tests/drill/run

test-chart: ## the Helm chart and the manifests made from it, without a cluster
	@deploy/install-deps chart
	@tests/chart/run

test-cluster: image ## the chart in a real one-node Kubernetes (root), or in that of KUBECONFIG
	@deploy/install-deps chart cluster
	@tests/e2e/cluster/run

test-fresh: ## make test and make run on a machine that has nothing; DIST=bookworm or trixie
	@deploy/install-deps fresh
	@tests/fresh/run $(DIST)

lint: ## format, clang-tidy, shellcheck, clang's warnings
	@deploy/install-deps build lint
	@cmake --preset release --log-level=WARNING >/dev/null
	@tests/lint

# A guest takes one CPU: the tests side by side, and what the others said behind what the first said.
test-kernels: build ## the numbers against a second observer, in Linux 5.10 and 6.1 under QEMU; and other guests
	@deploy/install-deps kernels
	@for kernel in 5.10 6.1; do tests/kernels/fetch $$kernel >/dev/null || exit 1; done
	@mkdir -p build/kernels; \
	{ tests/kernels/modules 5.10 6.1 && tests/kernels/apparmor 6.1 && tests/kernels/lockdown 5.10 6.1 && \
		tests/kernels/numa 6.1; } >build/kernels/others.log 2>&1 & others=$$!; \
	status=0; tests/kernels/equality 5.10 6.1 || status=1; \
	wait $$others || status=1; cat build/kernels/others.log; exit $$status

test-arm64: ## built for arm64: unit tests, and the same in its Linux 6.1, and with pages of 16 KiB (root)
	@deploy/install-deps kernels arm64
	@tests/cross/unit arm64
	@tests/kernels/equality 6.1-arm64 6.12-arm64-16k
	@tests/kernels/modules 6.1-arm64

# Status 77 of what is run on the live kernel: it can't be done here, and it said why.
test-accuracy: build ## the numbers against a second observer and perf, on the live kernel (root)
	@deploy/install-deps accuracy
	@tests/accuracy/live_equality || [ $$? = 77 ]

test-deploy: ## one version everywhere; compose file, workflows and issue forms; every error explained
	@deploy/install-deps deploy
	@tests/deploy/run

image: ## the image by the Dockerfile: build/image/kmem_exporter.tar (root; buildah)
	@deploy/install-deps image
	@tests/image/build

test-image: image ## the image under runc: no capability, read-only root, real events (root)
	@deploy/install-deps chart
	@tests/image/run

deb: build ## the Debian package: build/release/packages/kmem-exporter_VERSION_ARCH.deb
	@deploy/install-deps deb
	@cd build/release && rm -rf packages && cpack >cpack.log 2>&1 || { cat cpack.log; exit 1; }

test-deb: deb ## install, upgrade, remove and purge it in a new Debian with a real systemd (root)
	@tests/deb/run

bench: deps ## what counting costs, ours and others, on the live kernel (root); BENCH_ROUNDS=10
	@deploy/install-deps bench pieces
	@cmake --preset release --log-level=WARNING >/dev/null
	@cmake --build --preset release --target kmem_exporter bench_pieces storm_load
	@tests/bench/run_pieces
	@files=build/bench/pieces.json; \
	tests/bench/run_whole && files="$$files build/bench/whole.json" || [ $$? = 77 ] || exit 1; \
	tests/bench/run --rounds $(BENCH_ROUNDS) && files="$$files build/bench/results.json" || [ $$? = 77 ] || exit 1; \
	echo; tests/bench/check_targets $$files

storm: build ## a million events a second on each CPU for 60 s, none of them lost (root)
	@cmake --build --preset release --target storm_load
	@KMEM_TEST_STORM_SECONDS=60 python3 -B tests/integration/run.py test_storm || [ $$? = 77 ]

estimates: build ## what is sampled: a steady load of 5 minutes, and a storm; their counters within 1 and 2 % (root)
	@KMEM_TEST_ESTIMATE_SECONDS=300 python3 -B tests/integration/run.py $(addsuffix \
		.test_a_storm_is_sampled_within_its_budget_and_what_follows_is_exact, \
		estimates.SteadyLoad estimates.SteadyLoadInTheKernel \
		test_overhead.Overhead test_overhead.OverheadInTheKernel) || [ $$? = 77 ]

soak: build ## SOAK_MINUTES=60 under load: memory and open files stay flat, nothing is lost (root)
	@tests/bench/soak --minutes $(SOAK_MINUTES) || [ $$? = 77 ]

test-fleet: build ## one Prometheus takes 200 replaying exporters, with all rules (root)
	@tests/fleet/run --check

bench-fleet: build ## what a fleet costs a Prometheus: 200 replaying exporters (root)
	@tests/fleet/run

picture: build ## draw docs/pictures/node.png anew, from 5 minutes of the live kernel (root)
	@deploy/install-deps picture
	@docs/pictures/render

fuzz: deps ## every fuzzer, FUZZ_SECONDS=20 each
	@deploy/install-deps fuzz
	@tests/fuzz/run
