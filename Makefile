# The one entry to everything. Each target installs what it needs and says so.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := $(CURDIR)/node_modules/.bin
export PATH := $(BIN):$(CURDIR)/test/tools/node_modules/.bin:$(PATH)

# make test CLUSTER=0 leaves out the tests that need a Kubernetes API server.
CLUSTER ?= 1
ONLY ?=
OUT ?=
SEED ?=
LONG ?=
SCALE ?=
SECONDS ?=
TARGET ?=
INPUT ?=

.PHONY: help install tools cluster-tools quickstart check types lint format tidy gen gen-check breaking test unit \
  conformance faults security sim cluster mutants fuzz bench agent cluster-up cluster-down ci clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: node_modules/.installed ## Install the npm packages (Node 24 among them)

node_modules/.installed: package-lock.json package.json $(wildcard */package.json)
	@echo "Installing npm packages (about 20 s on an empty cache)"
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

tools: test/tools/node_modules/.installed ## Install the linter and buf

test/tools/node_modules/.installed: test/tools/package.json
	@echo "Installing oxlint, tsgolint and buf"
	@npm i --prefix test/tools --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

cluster-tools: ## Build or find kube-apiserver, etcd, controller manager, scheduler, kubectl, kwok (8 to 13 min once)
	@node test/cluster/tools.mjs

quickstart: install cluster-tools agent ## Hub, cluster, agent, tenant and two applications, from nothing; ONCE=1 ends after success
	@node test/quickstart/quickstart.mjs

agent: install ## Bundle the agent into one file, agent/dist/agent.mjs
	@node agent/bundle.mjs

check: types lint format gen-check breaking tidy ## Types, lint, format, generated code, contract, tidy rules

types: install
	@tsc -p .

lint: install tools
	@oxlint --type-aware --deny-warnings

format: install
	@prettier --check --log-level warn .

tidy: install
	@vitest run --project unit test/tidy

gen: install tools ## Generate code and reference pages from the protos, the option table and the catalogues
	@buf lint proto
	@buf generate proto --template proto/buf.gen.yaml
	@node test/tools/reference.mjs

gen-check: gen
	@git diff --exit-code --stat -- proto/gen docs/reference || \
	  { echo "Generated files are not current: commit what 'make gen' wrote"; exit 1; }

breaking: install tools ## Compare the contract with that of the last release
	@node test/tools/breaking.mjs

test: install agent $(if $(filter 1,$(CLUSTER)),cluster-tools) ## All tests; CLUSTER=0 leaves out those that need Kubernetes
	@node test/run.mjs unit conformance faults security sim $(if $(filter 1,$(CLUSTER)),cluster)

unit: install agent ## Unit and tidy tests
	@node test/run.mjs unit

conformance: install ## Store and client suites on every engine, kill -9 rounds; LONG=1: a thousand of them
	@LONG="$(LONG)" node test/run.mjs conformance

faults: install ## Death at each failpoint, power loss, full and damaged disks; LONG=1 does all of it
	@LONG="$(LONG)" node test/run.mjs faults

security: install ## Attacks on a hub process from outside
	@LONG="$(LONG)" node test/run.mjs security

mutants: install ## Break the store on purpose: the suites must catch each mutation
	@node test/conformance/mutants.ts

sim: install ## The simulation; SEED=n replays one seed
	@MOORAGE_SIM_SEED="$(SEED)" node test/run.mjs sim

cluster: install agent cluster-tools ## Tests against a real API server
	@node test/run.mjs cluster

bench: install agent cluster-tools ## Goals as ratios and figures; ONLY=G1,G2 OUT=file.json SCALE=0.2
	@ONLY="$(ONLY)" OUT="$(OUT)" SCALE="$(SCALE)" node test/load/bench.mjs

cluster-up: install cluster-tools ## A Kubernetes API to play with; prints the KUBECONFIG line
	@node test/cluster/up.mjs up

cluster-down: install ## End what cluster-up started
	@node test/cluster/up.mjs down

fuzz: install ## Fuzz everything that reads from outside, SECONDS=600 in all; TARGET=name INPUT=file replays one input
	@node --disable-warning=ExperimentalWarning test/fuzz/main.ts $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(TARGET),--target $(TARGET)) $(if $(INPUT),--input $(INPUT)) $(if $(SEED),--seed $(SEED))

# Fuzzing has one seed here, so that a verdict can be had again; "make fuzz" draws another one each time. The tests run
# whatever it finds: their total is the last line.
ci: check ## What CI runs
	@status=0; \
	$(MAKE) --no-print-directory fuzz SEED=20261126 || status=1; \
	$(MAKE) --no-print-directory test || status=1; \
	exit $$status

clean: ## Remove build output and local state
	@rm -rf agent/dist .moorage
