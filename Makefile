# make repro: install everything and run the pipeline. make help: the rest.
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 5000
PIP_ARGS ?=
# DVC starts the stages as `python`: the environment's, whether or not it is activated.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH :=
INSTALLED := .venv/.installed

.PHONY: help install repro test test-slow ui check audit
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

install: $(INSTALLED) ## create .venv and install what constraints.txt pins

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON): is $$($(PYTHON) --version 2>&1), 3.11 or later is needed | fix: make install PYTHON=python3.11" >&2; exit 2; }
	@[ -x .venv/bin/python ] || $(PYTHON) -m venv .venv
	@echo "installing into .venv ..."
	@python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")' > .venv/requirements.txt
	@python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -r .venv/requirements.txt
	@touch $(INSTALLED)

repro: install scm ## install, run the pipeline, show the results
	@dvc repro
	@echo && python -m llm report

test: install ## install, run the tests
	@python -m pytest $(ARGS)

test-slow: install ## the slow tests
	@python -m pytest -m slow $(ARGS)

ui: install ## the MLflow UI on 127.0.0.1 (PORT=5000)
	@python -m llm ui --port $(PORT)

check: install scm ## lint, types, and whether the graph is sound
	@ruff check . && ruff format --check . && mypy && dvc repro --dry --allow-missing > /dev/null && echo "check: fine"

audit: install ## rebuild in two folders and compare every byte
	@python -m tests.audit

# A copy without .git: tell DVC not to look for it.
.PHONY: scm
scm:
	@[ -e .git ] || grep -qs no_scm .dvc/config.local || dvc config --local core.no_scm true
