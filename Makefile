# `make repro` and `make test` each work from a fresh clone; they need Python 3.11 or newer, git, bash and make.
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

INSTALLED := .venv/.installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing reports to anyone.
export DVC_NO_ANALYTICS := 1
export ITERATIVE_DO_NOT_TRACK := 1
export RAY_USAGE_STATS_ENABLED := 0
export GX_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1
# Lines appear when they are written, also in a pipe.
export PYTHONUNBUFFERED := 1

.PHONY: help install repro test check docs base seeds ablations methods clean constraints

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## .venv with every version of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("fwd2bot needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

repro: $(INSTALLED)  ## run the stages whose inputs changed; says where the time went
	dvc repro | python benchmarks/stage_times.py

test: $(INSTALLED)  ## every test
	@# Whole files to two processes, as module fixtures train and start Ray; the longest first (tests/conftest.py).
	@# Four processes on two cores let Ray's nodes start so slowly that some of them give up.
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## format, lint, types, import rules, fast tests
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	OMP_NUM_THREADS=1 python -m pytest -m "not slow and not gpu"

docs: $(INSTALLED)  ## the documents as a site, in build/site
	mkdocs build --quiet
	@echo "open build/site/index.html"

base: $(INSTALLED)  ## train the tiny base model anew (the stage is frozen: `make repro` uses the one in git)
	dvc repro curate
	@# DVC does not run a frozen stage, --force or not; dvc.yaml gets its own layout back whatever happens
	cp dvc.yaml .dvc/tmp/dvc.yaml; trap 'mv .dvc/tmp/dvc.yaml dvc.yaml' EXIT; dvc unfreeze pretrain; \
		dvc repro --single-item --force pretrain | python benchmarks/stage_times.py

seeds: $(INSTALLED)  ## the default run with three seeds, what is missing of them; writes results/seeds.json: 25 minutes
	python -m flows.sweep run sweeps/seeds.yaml --headline results/seeds.json

ablations: $(INSTALLED)  ## Tables 5, 6, 7, 12 and 13 on the demo world, what is missing of three seeds each: hours
	python -m flows.sweep run sweeps/ablations.yaml

methods: $(INSTALLED)  ## Tables 1 to 4 and 9 to 11 on the demo world, what is missing of three seeds at 4 tokens, one at 9: hours
	python -m flows.sweep run sweeps/methods.yaml --data results/methods.json

clean:  ## remove .venv and caches; what the stages made stays, and what a killed run left (python -m flows.runs)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.git -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf

constraints:  ## write constraints.txt anew from pyproject.toml (needs uv)
	head -2 constraints.txt > constraints.partial
	uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 --extra dev \
		--constraint <(tail -1 constraints.txt) pyproject.toml \
		| grep -Ev '^(nvidia-(cu|nccl|nv)|triton|cuda-|torch==)' >> constraints.partial
	tail -1 constraints.txt >> constraints.partial
	mv constraints.partial constraints.txt
