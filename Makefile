# make repro: install everything and run the pipeline. make help: the rest.
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 5000
PIP_ARGS ?=
# DVC starts the stages as `python`: the environment's, whether or not it is activated. Tools run as `python -m`: their
# scripts hold the path of the folder that they were installed in, and a moved or copied project has another.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH :=
INSTALLED := .venv/.installed

.PHONY: help install repro test test-slow ui check audit
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## create .venv and install what constraints.txt pins

$(INSTALLED): pyproject.toml constraints.txt
	@.venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		PATH="$${PATH#"$(CURDIR)/.venv/bin:"}"; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
		{ echo "error: $(PYTHON): is $$($(PYTHON) --version 2> /dev/null || echo not there), 3.11 or later is needed | fix: make install PYTHON=python3.11" >&2; exit 2; }; \
		$(PYTHON) -m venv --clear .venv; }
	@echo "installing into .venv ..."
	@python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")' > .venv/requirements.txt
	@python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -r .venv/requirements.txt
	@touch $(INSTALLED)

repro: install scm ## install, run the pipeline, show the results
	@python -m llm repair
	@python -m dvc repro
	@echo && python -m llm report

test: install ## install, run the tests
	@python -m pytest $(ARGS)

test-slow: install ## the slow tests
	@python -m pytest -m slow $(ARGS)

ui: install ## the MLflow UI on 127.0.0.1 (PORT=5000)
	@python -m llm ui --port $(PORT)

check: install scm ## lint, types, and whether the graph is sound
	@python -m ruff check .
	@python -m ruff format --check .
	@python -m mypy
	@python -m dvc repro --dry --allow-missing > /dev/null
	@echo "check: fine"

audit: install ## rebuild in two folders and compare every byte
	@python -m tests.audit

# DVC is told not to look for git in a copy without it, and to look again once it is there.
.PHONY: scm
scm:
	@if [ -e .git ]; then \
		! grep -qs no_scm .dvc/config.local || python -m dvc config --local --unset core.no_scm; \
	else \
		grep -qs no_scm .dvc/config.local || python -m dvc config --local core.no_scm true; \
	fi
