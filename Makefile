# make help says what there is. Every target first completes the environment of the stack;
# when nothing is to do, that takes a moment.

STACK ?= onedl
# The first Python on PATH that runs (a pyenv shim may not) and is supported.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$p && break; done)

ifeq ($(STACK),onedl)
VENV := .venv
else ifeq ($(STACK),openmmlab)
VENV := .venv-openmmlab
else
$(error STACK is '$(STACK)'; allowed: onedl (the default) and openmmlab, e.g. make STACK=openmmlab test)
endif

# A PYTHON that was asked for replaces an environment made with another version.
ifneq ($(filter command environment,$(firstword $(origin PYTHON))),)
MATCH := --match-python
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-processes test-install test-all lint docs

help:
	@echo 'make setup     create or complete the environment ($(VENV))'
	@echo 'make demo      set up, train on synthetic scenes, show the result'
	@echo 'make test      set up, run the tests'
	@echo 'make test-processes  set up, run those that start, kill and join processes'
	@echo 'make test-install  set up, try the pip commands of the README in empty environments'
	@echo 'make test-all  set up, run all tests of both stacks, slow ones too'
	@echo 'make lint      set up, run ruff'
	@echo 'make docs      build the site of the documentation into site/'
	@echo
	@echo 'STACK=onedl      the maintained forks of the mm packages (default, in .venv)'
	@echo 'STACK=openmmlab  the official mm packages (in .venv-openmmlab)'
	@echo 'PYTHON=...       Python 3.10-3.13 to create the environment with'

setup:
	@python="$(PYTHON)"; if [ -z "$$python" ]; then \
		echo 'no Python 3.10 to 3.13 on PATH. Install one (Debian: apt install python3-venv)' \
		'or name it: make PYTHON=/path/to/python3.11 setup'; \
		exit 1; \
	fi; "$$python" tools/setup_env.py --stack $(STACK) $(MATCH)

demo: setup
	$(VENV)/bin/python tools/demo.py --work-dir work_dirs/demo-$(STACK)

test: setup
	$(VENV)/bin/python -m pytest tests -n 2 --dist loadfile --durations=25

# Some of them fork the process that runs them, and signal it: not in a worker with threads.
test-processes: setup
	$(VENV)/bin/python -m pytest tests -m "processes and not slow"

test-install: setup
	$(VENV)/bin/python -m pytest tests/test_pip_install.py -m slow

test-all: setup
	$(VENV)/bin/python tools/test_all.py

lint: setup
	$(VENV)/bin/python -m ruff check .

# Reads the sources without importing them, hence an environment without torch and the stacks.
docs:
	@test -n "$(PYTHON)" || { echo 'no Python 3.10 to 3.13 on PATH'; exit 1; }
	test -x .venv-docs/bin/mkdocs || { "$(PYTHON)" -m venv .venv-docs && \
		.venv-docs/bin/python -m pip install -q -r requirements/docs.txt; }
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo 'Read site/index.html, or, to search too, run .venv-docs/bin/mkdocs serve'
