# Vigil: `make` lists what there is. Two commands do all the set-up that they
# need: `make run` and `make test`.

SHELL       := /bin/bash -o pipefail
BIN         := bin
PROGRAMS    := vigil-agent vigil-controlplane vigil-trainer agentctl
TOOL        := go tool -modfile=internal/tools/go.mod
# Without its trace pages, which nobody serves, gRPC lets the linker leave out
# what is not called: the agent is a fifth smaller, on disk and in memory.
TAGS        := grpcnotrace
# The agent's HTTP is on loopback, to trainers and to S3, none of which needs HTTP/2
# of net/http; gRPC has its own.
TAGS_vigil-agent := ,nethttpomithttp2
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X github.com/vigil-ml/vigil/internal/version.version=$(VERSION)
# Without the cache: cmd/e2e builds programs whose sources the cache does not see.
GOTESTFLAGS ?= -count=1

# NVIDIA's header marks half of itself as deprecated; nobody needs pages of it.
export CGO_CFLAGS := -O2 -Wno-deprecated-declarations

.DEFAULT_GOAL := help
.PHONY: $(PROGRAMS) $(shell sed -n 's/^\([a-z][a-z-]*\):.*/\1/p' Makefile)

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Show the main job, end to end, on real input
	@$(BIN)/agentctl demo --out out

test: deps ## Run every test; ends with the list of what was skipped and why
	@echo "vigil: testing (the first time compiles everything: some minutes on two cores)"
	@$(TOOL) gotestsum --format pkgname-and-test-fails --hide-summary=output -- -timeout 9m $(GOTESTFLAGS) ./...

PYTHON      ?= python3
PYTHON_FULL := .vigil/python-full
test-python-full: ## Test the Python SDK with the newest PyTorch, Lightning, Transformers and Accelerate, and its types, in an environment of its own
	@[ -x $(PYTHON_FULL)/bin/python ] || $(PYTHON) -m venv $(PYTHON_FULL)
	@echo "vigil: installing PyTorch, Lightning, Transformers and Accelerate (some gigabytes, the first time)"
	@$(PYTHON_FULL)/bin/pip install -q torch numpy lightning transformers accelerate mypy
	@$(PYTHON_FULL)/bin/mypy trainer/python/vigil
	@VIGIL_PYTHON=$(CURDIR)/$(PYTHON_FULL)/bin/python go test ./trainer/python -count=1 -timeout 30m -run TestPython -v | grep -E '^ *--- |^(ok|FAIL|panic)|_test.go'

test-overload: ## Give a control plane with little memory more than it can hold: it refuses, lives, and loses nothing
	@VIGIL_OVERLOAD=1 go test ./cmd/e2e -count=1 -run TestOverload -v | grep -vE 'msg='

python: ## Build the Python SDK's wheel into bin/
	@mkdir -p $(BIN)
	@$(PYTHON) -m pip wheel -q --no-deps --wheel-dir $(BIN) ./trainer/python
	@rm -rf trainer/python/build trainer/python/*.egg-info
	@ls $(BIN)/vigil_ml-*.whl

bench-sdk: ## Microseconds in the training thread: run.log beside wandb and mlflow, and a step with vigil.watch; VIGIL_PYTHON names the Python
	@go test ./trainer/python -run '^$$' -bench SDK -benchtime 1x -v | grep -vE '^(goos|goarch|pkg|cpu|ok|PASS)'

bench-save: ## How long training stands still for a checkpoint of torch.save, new and over memory that is there (VIGIL_BENCH_MIB, 256)
	@go test ./trainer/python -run '^$$' -bench Save -benchtime 1x -v | grep -vE '^(goos|goarch|pkg|cpu|ok|PASS)'

deps: ## Install what the tests talk to for real, where this machine allows it
	@internal/tools/deps.sh

build: $(PROGRAMS) ## Build the four programs into bin/

$(PROGRAMS):
	@if [ ! -x $(BIN)/$@ ]; then echo "vigil: building $@ (the first build compiles the libraries: some minutes on two cores)"; fi
	@mkdir -p $(BIN)
	@go build -trimpath -tags $(TAGS)$(TAGS_$@) -ldflags '$(LDFLAGS)' -o $(BIN)/$@ ./cmd/$@

gen: ## Make the generated code anew
	@$(TOOL) buf generate
	@$(TOOL) buf generate --template buf.gen.gateway.yaml
	@go test ./internal/metric -run TestReferenceIsFresh -update >/dev/null
	@go test ./controlplane/api -run TestAccessTable -update >/dev/null
	@go test ./controlplane/authority -run TestNodesTable -update >/dev/null
	@go test ./agent/localapi -run TestTrainersTable -update >/dev/null

race: ## Run every test with the race detector
	@$(TOOL) gotestsum --format pkgname-and-test-fails -- -race -timeout 30m $(GOTESTFLAGS) ./...

test-elasticsearch: ## Run the exporter's suite, and an outage of the whole, against a real Elasticsearch 8 from Maven Central
	@home=$$(internal/tools/elasticsearch.sh) && VIGIL_ELASTICSEARCH=$$home go test -count=1 -v -p 1 -timeout 20m -run 'TestReal|TestAllIsOutside' ./controlplane/export/elastic ./cmd/e2e | grep -vE 'msg='

FUZZTIME ?= 30s
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	@set -e; grep -rl --include='*_test.go' 'func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -ho 'func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
			echo "vigil: fuzzing $$dir $$target for $(FUZZTIME)"; \
			go test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; done; done

lint: ## Judge the code: vet, staticcheck, format, protocol
	@go vet ./...
	@$(TOOL) staticcheck ./...
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not gofmt'd: $$unformatted"; exit 1; }
	@$(TOOL) buf lint
	@$(TOOL) buf format --diff --exit-code

CHAOS ?= 3m
chaos-replicas: ## Kill control planes and NATS servers of a shared installation at random for CHAOS (3m), and count
	@VIGIL_CHAOS=$(CHAOS) go test -count=1 -timeout 60m -v -run TestReplicas ./controlplane | grep -vE 'level=(INFO|DEBUG)'

bench: ## Run every benchmark once
	@go test -run '^$$' -bench . -benchmem ./... | grep -E '^(Benchmark|pkg:)'

# The peer that the agent is measured beside.
NODE_EXPORTER := 1.12.1
BENCH_SECONDS ?= 60
bench-agent: vigil-agent vigil-controlplane ## Measure the agent beside node_exporter, for BENCH_SECONDS (60) at one second and again at ten
	@$(BIN)/node_exporter --version 2>&1 | grep -q 'version $(NODE_EXPORTER)\b' || { echo "vigil: building node_exporter $(NODE_EXPORTER)"; \
		GOBIN=$(abspath $(BIN)) go install -trimpath -ldflags '-s -w -X github.com/prometheus/common/version.Version=$(NODE_EXPORTER)' github.com/prometheus/node_exporter@v$(NODE_EXPORTER); }
	@VIGIL_BENCH_AGENT=$(abspath $(BIN)/vigil-agent) VIGIL_BENCH_NODE_EXPORTER=$(abspath $(BIN)/node_exporter) VIGIL_BENCH_SECONDS=$(BENCH_SECONDS) \
		go test ./agent -run '^$$' -bench BesideNodeExporter -benchtime 1x -timeout 30m | grep -vE '^(goos|goarch|pkg|cpu|ok|PASS|Benchmark)'
BENCH_HOSTS ?= 1000
BENCH_STEPS ?= 300
bench-ingest: agentctl vigil-controlplane ## Samples a CPU-second: the whole path from agents, beside VictoriaMetrics and Prometheus
	@internal/tools/bench-ingest.sh $(BIN) $(BENCH_HOSTS) $(BENCH_STEPS)

bench-access: ## What mTLS, the access check and the audit log add to a call that changes something, and to samples
	@go test ./controlplane/api ./controlplane/ingest -p 1 -run '^$$' -bench 'BenchmarkAccess$$' -benchtime 1x 2>/dev/null | grep -vE '^[[:space:]]*(testkit.go|goos|goarch|pkg|cpu|ok|PASS|Benchmark|---|\.\.\.)|level='

BENCH_AGENTS ?= 10000
bench-fleet: agentctl vigil-controlplane ## BENCH_AGENTS (10000) simulated agents on one control plane, which is killed half-way: all of them come again at once
	@internal/tools/bench-fleet.sh $(BIN) $(BENCH_AGENTS)

# The labelled traces are not part of the project.
TRACES ?= ../shared/detection
bench-detect: agentctl ## Score the detection rules on labelled traces in TRACES (../shared/detection)
	@internal/tools/bench-detect.sh $(BIN)/agentctl $(TRACES)

# Other networks than those that the rules were developed on; PyTorch's Python.
UNSEEN ?= .vigil/traces
TORCH  ?= /usr/bin/python3
bench-detect-unseen: agentctl ## Record runs of other networks with known faults (PyTorch; half an hour on a core) and score the rules on them
	@[ -d $(UNSEEN) ] || { $(TORCH) internal/tools/traces/make.py $(UNSEEN).part trainer/digits/digits.csv.gz && mv $(UNSEEN).part $(UNSEEN); }
	@RUNS=$(UNSEEN) PYTHON=$(TORCH) internal/tools/bench-detect.sh $(BIN)/agentctl $(TRACES)

bench-detect-sensitivity: agentctl ## The same with every setting moved by 20 % either way
	@internal/tools/bench-detect.sh $(BIN)/agentctl $(TRACES) sensitivity

bench-detect-ranks: agentctl ## The same for ranks: labelled multi-rank traces, then simulated runs of 1,024 and 16,384 ranks
	@internal/tools/bench-detect-ranks.sh $(BIN)/agentctl $(TRACES)
	@go test ./controlplane/detect/ranksim -run '^$$' -bench RightRank -benchtime 1x -v | grep -vE '^(goos|goarch|pkg|cpu|ok)'

bench-detect-ranks-sensitivity: agentctl ## Labelled multi-rank traces with every setting for ranks moved by 20 % either way
	@internal/tools/bench-detect-ranks.sh $(BIN)/agentctl $(TRACES) sensitivity

bench-detect-speed: ## Nanoseconds and bytes for each series and observation, by rule; and of a core, 16,384 ranks
	@go test ./controlplane/detect/rules -run '^$$' -bench 'Kinds|Observe|NewRun' -benchmem | grep -E '^Benchmark'
	@go test ./controlplane/detect/ranksim -run '^$$' -bench ManyRanks -benchmem | grep -E '^Benchmark'

CHAOS_RUNS ?= 300
CHAOS_SEED ?= 1
chaos: ## Break CHAOS_RUNS (300) short runs at random, by CHAOS_SEED (1), and see that each ends as if nothing had happened
	@go test ./cmd/e2e/chaos -count=1 -timeout 120m -v -run Chaos -args -runs $(CHAOS_RUNS) -seed $(CHAOS_SEED)

bench-alerting: ## Alerts taken, told and how fast, beside Alertmanager where it is installed
	@go test ./cmd/e2e -run '^$$' -bench BenchmarkAlerting -benchtime 1x -timeout 20m | grep -vE '^(goos|goarch|pkg|cpu|ok|PASS)'

KILLS ?= 100
chaos-alerting: ## Kill the control plane KILLS (100) times while it tells of alerts; none may be lost
	@VIGIL_CHAOS_KILLS=$(KILLS) go test ./cmd/e2e -run TestAlertingSurvivesKills -count=1 -timeout 30m -v | grep -vE '^(=== |ok|PASS)'

test-provider-faults: ## Have real providers misbehave for as long as documented (two and a half minutes): when each is told again, and what a receiver beside notices
	@VIGIL_PROVIDER_FAULTS=1 go test ./cmd/e2e -run TestProviderFaults -count=1 -timeout 20m -v | grep -vE '^(=== |ok|PASS)'

test-alertmanager: ## Play the conformance and every method of API v2 to the present Alertmanager, built from its module (some minutes, the first time)
	@home=$$(internal/tools/alertmanager.sh) && PATH=$$home:$$PATH VIGIL_ALERTMANAGER=$$home/alertmanager go test -count=1 -v \
		-run 'TestConformance|TestAnswers|TestAmtool' ./controlplane/alertapi | grep -E '^ *(---|ok|FAIL)|_test.go'

storm-alerting: ## 10,000 runs break within 5 s: how they are told, what it costs, and how another node is served meanwhile
	@VIGIL_STORM_FINDINGS=10000 go test ./cmd/e2e -run 'TestAlertingStorm|TestStormIsFair' -count=1 -timeout 20m -v | grep -vE '^(=== |ok|PASS)'

bench-vault: ## Save one checkpoint in several ways: seconds blocked, to durable, to verified (VIGIL_BENCH_MIB, 512)
	@go test ./agent/vault -run '^$$' -bench Checkpoint -benchtime 3x -timeout 30m | grep -E '^Benchmark|SKIP|skip'

bench-trainer: ## Steps a second of the Go trainer beside PyTorch's on one thread, the same network and batch in turns
	@go test ./trainer/multitask -run '^$$' -bench BesidePyTorch -benchtime 1x -timeout 20m | grep -vE '^(goos|goarch|pkg|cpu|ok|PASS|Benchmark|---)'

STUDIES := docs/multi-task
GRADNORM := equal; gradnorm:{alpha: 0.12}; uncertainty:{learning_rate: 0.025}
study-toy: vigil-trainer ## GradNorm's toy experiment anew, 2 and 10 tasks, 5 seeds: the tables and figures in docs/multi-task (20 minutes)
	@for n in 2 10; do $(BIN)/vigil-trainer compare --plan $(STUDIES)/toy-$$n.yaml --methods "$(GRADNORM)" --seeds 5 \
		--title "GradNorm's toy problem, $$n tasks: sum of normalized held-out losses" --table $(STUDIES)/toy-$$n.md --figure $(STUDIES)/toy-$$n.svg || exit 1; done

study-digits: vigil-trainer ## Every balance method on the digits, beside equal and grid-searched static weights, 5 seeds (15 minutes)
	@$(BIN)/vigil-trainer compare --methods all --steps 1000 --seeds 5 --grid 0.3,1,3 --title "Overlaid digits: sum of normalized held-out losses" \
		--table $(STUDIES)/digits.md --figure $(STUDIES)/digits.svg

cross: ## Build for every platform that is promised
	@for target in linux/amd64 linux/arm64; do \
		echo "vigil: cross-compiling for $$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build -o /dev/null ./cmd/... || exit 1; done
	@for target in darwin/arm64; do \
		echo "vigil: cross-compiling agentctl and vigil-trainer for $$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build -o /dev/null ./cmd/agentctl ./cmd/vigil-trainer || exit 1; done

check: lint cross ## Lint, cross-compile, and see that generated code and go.mod are fresh
	@before=$$(git status --porcelain proto docs go.mod go.sum); $(MAKE) -s gen && go mod tidy; \
		after=$$(git status --porcelain proto docs go.mod go.sum); \
		[ "$$before" = "$$after" ] || { echo "generated code or go.mod is stale; commit what make gen and go mod tidy made:"; git status --short proto docs go.mod go.sum; exit 1; }
	@base=$$(git rev-parse --verify -q origin/main || git rev-parse HEAD); \
		$(TOOL) buf breaking --against ".git#ref=$$base" || { echo "the protocol breaks that of $$base"; exit 1; }
	@echo "vigil: checked"
