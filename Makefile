SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL := go tool -modfile=tools/go.mod

.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: ## Build bin/tierctl, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/tierctl ./cli

generate: ## Write deep copies and CRD manifests anew from apis/v3
	$(TOOL) controller-gen object paths=./apis/v3 crd:allowDangerousTypes=true paths=./apis/v3 output:crd:dir=config/crd
	mv config/crd/projectcalico.org_{profiles,workloadendpoints}.yaml config/crd/standalone/

.PHONY: help build generate
