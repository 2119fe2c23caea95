# make quickstart    install, then pretrain, benchmark and report on embedded data
# make test          install, then run the tests
#
# PYTHON=/path/to/python3.11   the interpreter to use; else the first usable one of 3.12, 3.11, 3.10 is found
# TORCH_INDEX=URL              where torch and torchvision come from (both, for one does not run with the other of another
#                              build): the URL of PyTorch's CPU-only index, say, which saves 5 GB of CUDA libraries.
#                              It is kept for later calls until `make clean`. Default: the CUDA build, which runs on CPUs too.
# ARGS="..."                   more arguments for metalearn quickstart, or for pytest

VENV := .venv
ARGS ?=

.PHONY: help quickstart test lint install clean
.NOTPARALLEL:

help:
	@echo 'make quickstart   install into $(VENV), then run the quick experiment on embedded data'
	@echo 'make test         install into $(VENV), then run the tests'
	@echo 'make lint         ruff and mypy'
	@echo 'make install      install into $(VENV) only'
	@echo 'make clean        remove $(VENV) and caches; runs and data stay'
	@echo 'variables: PYTHON=/path/to/python3.11  TORCH_INDEX=URL  ARGS="..."'

quickstart:
	@scripts/install.sh run
	@$(VENV)/bin/metalearn quickstart $(ARGS)

test:
	@scripts/install.sh test
	@$(VENV)/bin/python -m pytest $(ARGS)

lint:
	@scripts/install.sh test
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

install:
	@scripts/install.sh run

clean:
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
