# make demo   install what serving needs, start a server, make 16 pictures with it: out/starry.png
# make test   install everything and run the whole suite
# make lint types api   the other checks of .ci/run
SHELL := /bin/bash
VENV ?= .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The first of these that runs and is 3.11 or 3.12; `make PYTHON=... demo` names another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$python && break; done)

.PHONY: demo test lint types api clean

demo: $(VENV)/.cpu
	$(RUN) examples/demo.py

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/.dev
	$(VENV)/bin/mypy

# Fails if impasto/api is not what proto/ generates.
api: $(VENV)-proto/.proto
	$(VENV)-proto/bin/python proto/generate.py --check

$(VENV)/.cpu: pyproject.toml constraints.txt | $(RUN)
	$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(RUN)
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.cpu

$(RUN):
	@test -n "$(PYTHON)" || { echo "impasto needs Python 3.11 or 3.12; found neither"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The generator of the gRPC code wants another protobuf than the rest: it has an environment of its own.
$(VENV)-proto/.proto: proto/requirements.txt
	@test -n "$(PYTHON)" || { echo "impasto needs Python 3.11 or 3.12; found neither"; exit 1; }
	$(PYTHON) -m venv $(VENV)-proto
	$(VENV)-proto/bin/python -m pip install --quiet --disable-pip-version-check --requirement proto/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-proto out .pytest_cache .mypy_cache .ruff_cache .hypothesis
