# Every target works on all modules of go.work. GOFLAGS and FLAGS are handed on: make test FLAGS='-run Crash -v'

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := $(CURDIR)/.bin
GOLANGCI_LINT := v2.15.0
FLAGS ?=
TIMEOUT ?= 15m
SOAKTIME ?= 2h
FUZZTIME ?= 20s
ROUNDS ?= 5
SECTIONS ?=
BENCHTIMEOUT ?= 6h

# Packages tested at once. Each may start servers of its own, which a small machine has to bear.
PARALLEL ?= 2

modules = $(shell go list -m -f '{{.Dir}}')

# The variables of servers in containers, if those are used.
env := eval "$$(scripts/deps.sh env)"

# $(call each,command) runs a command in every module, to the last, and fails if it has failed in any.
each = failed=; for dir in $(modules); do cd "$$dir"; echo "== $${dir\#$(CURDIR)/}"; { $(1); } || failed="$$failed $$dir"; done; \
	if [ -n "$$failed" ]; then echo "failed in:$$failed" >&2; exit 1; fi

.PHONY: help deps test race soak bench fuzz lint fmt tidy build

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

deps: ## install the servers that the tests start, unless they are there
	@scripts/deps.sh

test: deps ## run all tests
	@$(env); $(call each,go test -p $(PARALLEL) -timeout $(TIMEOUT) $(FLAGS) ./...)

race: deps ## run all tests with the race detector
	@$(env); $(call each,go test -race -p $(PARALLEL) -timeout $(TIMEOUT) $(FLAGS) ./...)

soak: deps ## run the tests that kill servers and processes, for long
	@$(env); export OUTBOX_SOAK=1; $(call each,go test -count=1 -p 1 -timeout $(SOAKTIME) -run 'Soak|Crash|EffectsOnce|UnderFailure|FailPoints|FollowsTheModel|BrokerAway' $(FLAGS) ./...)

bench: deps ## measure everything, an hour, and write docs/benchmarks.md (ROUNDS=5); SECTIONS=drain,idle measures these again
	@$(env); cd bench && go test -count=1 -v -run '^TestReport$$' -timeout $(BENCHTIMEOUT) $(FLAGS) -args -write ../docs/benchmarks.md -rounds $(ROUNDS) $(if $(SECTIONS),-merge -only $(SECTIONS))

fuzz: ## run every fuzz test (FUZZTIME=20s)
	@$(call each,$(CURDIR)/scripts/fuzz.sh $(FUZZTIME))

lint: $(BIN)/golangci-lint-$(GOLANGCI_LINT) ## check format, vet, golangci-lint and go.mod of all modules
	@unformatted="$$(gofmt -l .)"; if [ -n "$$unformatted" ]; then printf 'not formatted, run make fmt:\n%s\n' "$$unformatted" >&2; exit 1; fi
	@$(call each,go vet ./... && $< run --config $(CURDIR)/.golangci.yml ./... && go mod tidy -diff)

fmt: ## format all files
	@gofmt -w .

tidy: ## tidy go.mod and go.sum of all modules
	@$(call each,go mod tidy)

build: ## build the program into .bin/outbox
	@cd cmd/outbox && go build -o $(BIN)/outbox .

$(BIN)/golangci-lint-$(GOLANGCI_LINT):
	@echo "building golangci-lint $(GOLANGCI_LINT), once, for some minutes" >&2
	@GOBIN=$(BIN) GOFLAGS= nice go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	@mv $(BIN)/golangci-lint $@
