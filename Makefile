# make repro: install everything and run the pipeline. make help: list the targets.
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 5000
PIP_ARGS ?=
STAGES ?=
MARKS ?= slow
# Tools run as `python -m TOOL`: the scripts that pip puts into .venv/bin hold an absolute path and break if the project
# is moved or copied. .venv/bin/llm is our own and holds none.
RUN := .venv/bin/python -m
# A test that hangs or crashes ends the run: another worker would begin the whole file again.
PYTEST := pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
export PYTHONPATH :=
export PYTHONSAFEPATH :=
INSTALLED := .venv/.installed

.PHONY: help install repro test test-slow ui docs check audit
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## create .venv with the packages pinned in constraints.txt

# Only the requirements are installed, not the project: a copy of it, such as a queued experiment, must import its own
# code. .venv/bin/llm runs the code of the current folder. pip would compile every module, which takes about as long as
# the rest. Without it, Python compiles those that are used when they are first imported; but where
# PYTHONDONTWRITEBYTECODE is set, it would do so in every process.
$(INSTALLED): pyproject.toml constraints.txt llm/cli/launcher
	@.venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
		{ echo "error: $(PYTHON): Python 3.11 or later is needed, this is $$($(PYTHON) --version 2> /dev/null || echo missing) | fix: make install PYTHON=python3.11" >&2; exit 2; }; \
		$(PYTHON) -m venv --clear .venv; }
	@echo "installing into .venv ..."
	@.venv/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")' > .venv/requirements.txt
	@$(RUN) pip install -q $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile) --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -r .venv/requirements.txt
	@install -m 755 llm/cli/launcher .venv/bin/llm
	@touch $(INSTALLED)

repro: install ## install, run the pipeline, show the results
	@.venv/bin/llm repro

ui: install ## serve the MLflow UI on 127.0.0.1 (PORT=5000)
	@.venv/bin/llm ui --port $(PORT)

docs: install ## build docs/ as a site for offline use, site/index.html; a broken link fails
	@$(RUN) pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
		$$(.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict
	@echo "written: site/index.html"

test: install ## run the quick tests
	@$(RUN) $(PYTEST) $(ARGS)

test-slow: install ## run the slow tests (MARKS="slow and not long" leaves out the longest)
	@$(RUN) $(PYTEST) -m "$(MARKS)" $(ARGS)

check: install ## run the linters and the type checker, and check the pipeline's graph
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@.venv/bin/llm repair
	@$(RUN) dvc dag > /dev/null
	@echo "check: passed"

audit: install ## rebuild in two folders and compare every byte (STAGES=finetune_dpo)
	@$(RUN) tests.audit $(STAGES)
