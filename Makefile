SHELL := /bin/bash -o pipefail
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/tierwall/tierwall/cli/early.Version=$(VERSION) -X github.com/tierwall/tierwall/cli/early.Commit=$(COMMIT)
TOOL := go tool -modfile=tools/go.mod
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: go ## Build bin/tierctl, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/tierctl ./cli

demo: build ## Play the walk-throughs A to G with agents and real packets in network namespaces
	@go build -o bin/demo ./test/lab/demo
	@bin/demo -tierctl bin/tierctl

test: go nft kube chromium shells ## Run every test but test-e2e's, with the kernel where it can be used
	go vet ./...
	go test -json -timeout 20m ./... | go run ./test/tally

test-kernel: go nft ## Only the tests that program the kernel and send packets
	CI=true go test -json -timeout 20m ./dataplane/nft ./test/lab/... | go run ./test/tally

test-e2e: build nft bin/helm ## A real cluster of two nodes: installed as the README says, the walk-throughs, what operators do (root; builds Kubernetes once)
	go vet -tags e2e ./test/kube ./test/e2e
	CI=true go test -tags e2e -p 1 -count=1 -json -timeout 60m ./test/kube ./test/e2e | go run ./test/tally

bench-e2e: build nft ## In the same cluster: from kubectl apply to packets, from a pod's being ready to its policy (N=100)
	go test -tags e2e -count=1 -timeout 60m ./test/e2e -run '^$$' -bench . -benchtime $(or $(N),100)x

fuzz: go ## Look for a while for input that breaks a reader, and for a packet on which Trace and the table disagree
	go test -run '^$$' -fuzz FuzzParse -fuzztime 30s ./apis/selector
	go test -run '^$$' -fuzz FuzzAdmit -fuzztime 30s ./config/crd
	go test -run '^$$' -fuzz FuzzRead -fuzztime 30s ./controllers/store
	go test -run '^$$' -fuzz FuzzBolt -fuzztime 30s ./controllers/store
	go test -run '^$$' -fuzz FuzzDecodeConnection -fuzztime 30s ./dataplane/nft
	go test -run '^$$' -fuzz FuzzDecodeTable -fuzztime 30s ./dataplane/nft
	go test -run '^$$' -fuzz FuzzTold -fuzztime 15s ./dataplane/nft
	go test -run '^$$' -fuzz FuzzIndex -fuzztime 60s ./dataplane/ruleset
	go test -run '^$$' -fuzz FuzzSettings -fuzztime 30s ./apis/v3
	go test ./dataplane/ruleset -timeout 60m -run TestTwoMinds -rapid.checks=$(or $(CHECKS),20000)

random: go ## The properties on many more random clusters and packets (CHECKS=5000 CLUSTERS=100 PACKETS=500000)
	go test ./test/scenario ./config/crd ./dataplane/policy ./dataplane/ruleset -timeout 60m -rapid.checks=$(or $(CHECKS),5000)
	go test ./test/lab/replay -timeout 60m -run RandomClusters -clusters $(or $(CLUSTERS),100) -seed $$RANDOM$$RANDOM
	go test ./test/lab/wire -timeout 60m -run RandomPackets -packets $(or $(PACKETS),500000) -seed $$RANDOM$$RANDOM

bench: go nft ## Measure; every figure is a ratio to another of the same run (figures as JSON in bin)
	mkdir -p bin
	for what in load change memory packets hostile; do go run ./test/bench $$what -json bin/bench-$$what.json || exit 1; done
	go test -run '^$$' -bench . -benchmem ./dataplane/... ./cli

bench-short: go nft ## The same in a few minutes, with fewer sizes
	mkdir -p bin
	for what in load change memory packets; do go run ./test/bench $$what -short -json bin/bench-$$what.json || exit 1; done

update: go ## Rewrite the plans and tables that the corpus shows (never its verdicts)
	go test ./dataplane/policy -run TestScenarioPlans -update
	go test ./dataplane/ruleset -run TestScenarioTables -update

pictures: build chromium ## Make the pictures of cli/README.md anew
	bin/tierctl graph -f config/samples/aks.yaml > cli/pictures/graph.svg
	bin/tierctl matrix -f config/samples/aks.yaml -o html > bin/matrix.html
	for s in dark light; do chromium --headless=new --no-sandbox --hide-scrollbars --window-size=1360,760 --virtual-time-budget=4000 \
		--blink-settings=preferredColorScheme=$$([ $$s = dark ] && echo 0 || echo 1) --screenshot=cli/pictures/matrix-$$s.png \
		"file://$(CURDIR)/bin/matrix.html#source=development%2Ffrontend&destination=development%2Fbackend" || exit 1; done

generate: go bin/helm ## Write deep copies, CRD manifests and what is made of them anew from apis and the chart
	$(TOOL) controller-gen object crd:allowDangerousTypes=true paths=./apis/v3 paths=./apis/v1alpha1 output:crd:dir=config/crd
	mv config/crd/projectcalico.org_{profiles,workloadendpoints}.yaml config/crd/standalone/
	go run ./config/helm/generate -helm bin/helm
	go test ./cli -run TestGenerated -update

bin/helm: Makefile
	GOBIN=$(CURDIR)/bin go install helm.sh/helm/v3/cmd/helm@v3.22.0

verify: go ## Fail when generated files, formatting or go.mod are not as they should be
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	go mod verify && go mod tidy -diff
	go -C tools vet ./... && go -C tools test ./... && go -C tools mod tidy -diff
	$(MAKE) generate && git diff --exit-code -- apis config cli

vuln: go ## Ask govulncheck for known vulnerabilities; says so, and is no error, where their database cannot be reached
	go -C tools run ./vuln

sbom: build ## Write bin/tierctl.cdx.json, what bin/tierctl is made of and under which licences (CycloneDX)
	go -C tools run ./sbom -of ../bin/tierctl -json ../bin/tierctl.cdx.json

lint: ## Run golangci-lint with .golangci.yml, where it is installed
	golangci-lint run

image: ## Build the container image tierwall/tierwall:VERSION
	docker build --build-arg VERSION=$(VERSION) -t tierwall/tierwall:$(VERSION) .

clean: ## Remove what was built
	rm -rf bin

# What the targets need and a fresh machine may lack.
go:
	@command -v go >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy golang-go; }

kube: go
	@go run ./test/kube/try -build

nft:
	@PATH=$$PATH:/usr/sbin; command -v nft >/dev/null && command -v iptables-restore >/dev/null && command -v ipset >/dev/null && command -v ip >/dev/null || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy nftables iptables ipset iproute2; }

chromium:
	@command -v chromium >/dev/null && command -v dot >/dev/null || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends chromium fonts-dejavu-core graphviz; }

shells:
	@command -v zsh >/dev/null && command -v fish >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy zsh fish; }

.PHONY: help build demo test test-kernel test-e2e bench-e2e kube fuzz random bench bench-short update pictures generate verify lint vuln sbom image clean go nft chromium shells
