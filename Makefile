PYTHON ?= python3
VENV ?= .venv

.PHONY: help demo test slow lint format

help:  ## these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

demo: $(VENV)/.ready  ## sets up, then the whole flow on built-in images: minutes on a laptop CPU
	$(VENV)/bin/python train.py slim -c configs/demo.yaml

test: $(VENV)/.ready  ## sets up, then the tests: about 10 minutes on 2 cores
	$(VENV)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

slow: $(VENV)/.ready  ## the tests that are marked slow: about half an hour on 2 cores
	$(VENV)/bin/python -m pytest -m slow

lint: $(VENV)/.ready  ## ruff and mypy, without changing anything
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.ready  ## ruff mends what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The stamp is written last, so an environment without one is half made and is built anew.
$(VENV)/.ready: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "yolo_slim needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/a/newer/python")'
	@if [ -d $(VENV) ] && [ ! -e $(VENV)/pyvenv.cfg ] && [ -n "$$(ls -A $(VENV))" ]; then \
		echo "$(VENV) exists and is no Python environment: move it away or choose another folder, make VENV=folder" >&2; exit 1; \
	fi
	@if [ -e $@ ] && $(VENV)/bin/python -m pip --version > /dev/null; then \
		echo "== setup.cfg or pyproject.toml changed: bringing $(VENV) up to date"; \
	else \
		echo "== creating the Python environment $(VENV)"; $(PYTHON) -m venv --clear $(VENV); \
	fi
	@rm -f $@
	@echo "== installing yolo_slim and what it needs; the first time this downloads a few GB and takes some minutes"
	$(VENV)/bin/python -m pip install --upgrade torch torchvision --editable '.[test]'
	@$(VENV)/bin/python -c 'import torch, torchvision.ops; print("== ready: torch", torch.__version__, "torchvision", torchvision.__version__)'
	@touch $@
