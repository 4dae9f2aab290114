# Signet. `make` alone lists the targets. Needs Go, make and, for what is missing below them, apt (see deploy/packages.sh).

SHELL := /bin/sh
GO ?= go

# Without this, a checkout owned by somebody else (a CI volume, sudo) fails on "error obtaining VCS status".
# The version is stamped by -ldflags instead. A GOFLAGS of your own is left alone.
GOFLAGS ?= -buildvcs=false
export GOFLAGS

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -X main.version=$(VERSION)

GOLANGCI_VERSION := v2.15.0
GOLANGCI := bin/tools/golangci-lint-$(GOLANGCI_VERSION)

# Packages that must also compile to WebAssembly: no clock, network or device (docs/decisions/0002-layout-and-imports.md).
PURE := audit/record audit/merkle audit/checkpoint audit/keytree audit/custody audit/rotation audit/witness audit/bundle audit/ocsf delegation/chain delegation/event delegation/evidence delegation/quota delegation/workload tpm/quote ca/lint policy

# Two packages at a time: each may drive a SoftHSM and a swtpm of its own, under the race detector.
TEST_P ?= 2
TEST_TIMEOUT ?= 30m
BENCH ?=
FUZZTIME ?= 1m

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: deps build ## build, make a development appliance under var/dev, run the demonstration, serve until Ctrl-C
	bin/signetd dev --dir var/dev --listen 127.0.0.1:8443 --demo

.PHONY: demo
demo: deps build ## the same and exit: 0 only if every step held
	bin/signetd dev --dir var/dev --listen 127.0.0.1:0 --demo --exit

.PHONY: build
build: ## bin/signetd (cgo), bin/signet and bin/signet-verify (static)
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/signetd ./cmd/signetd
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/signet ./cmd/signet
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/signet-verify ./cmd/signet-verify

.PHONY: check
check: lint wasm test ## everything CI runs: lint, the WebAssembly build, the tests

.PHONY: test
test: deps-test ## every test, with the race detector, on real SoftHSM and swtpm
	$(GO) test -race -p $(TEST_P) -timeout $(TEST_TIMEOUT) ./...

.PHONY: lint
lint: deps-test $(GOLANGCI) ## golangci-lint (gofumpt included), go vet, go mod tidy -diff
	$(GOLANGCI) run ./...
	$(GO) vet ./...
	$(GO) mod tidy -diff

.PHONY: fmt
fmt: $(GOLANGCI) ## format the Go code with gofumpt
	$(GOLANGCI) fmt ./...

.PHONY: wasm
wasm: ## compile the pure packages for js/wasm
	GOOS=js GOARCH=wasm $(GO) build $(addprefix ./,$(wildcard $(PURE)))

.PHONY: bench
bench: deps ## what it costs, as one table (docs/benchmarks.md); BENCH=-quick for a shorter run
	@$(GO) run ./internal/bench $(BENCH)

.PHONY: soak
soak: deps-test ## the long fault and kill suites, then each fuzz target for FUZZTIME (1m)
	SIGNET_SOAK=1 $(GO) test -count=1 -run Soak -timeout 60m ./...
	@set -eu; for pkg in $$($(GO) list ./...); do \
		targets=$$($(GO) test -list '^Fuzz' "$$pkg"); \
		for f in $$(printf '%s\n' "$$targets" | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
		done; \
	done

.PHONY: deps
deps: ## install the missing system packages (root), or name the command that does
	@sh deploy/packages.sh

.PHONY: deps-test
deps-test: ## the same, with what the tests alone need
	@sh deploy/packages.sh test

.PHONY: clean
clean: ## remove bin/ and var/dev/ (the development appliance and its keys)
	rm -rf bin var/dev

# A pinned binary, versioned by name so that a bump rebuilds it; not a tool line in go.mod, whose graph it would swamp.
$(GOLANGCI):
	@mkdir -p bin/tools/new
	GOBIN='$(CURDIR)/bin/tools/new' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv bin/tools/new/golangci-lint $@ && rmdir bin/tools/new
