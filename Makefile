# make demo   installs everything, builds the mini models and answers example dialogues (IMAGES=folder: with your images)
# make test   installs everything and runs the tests; make test-slow runs the long ones too
# make test-newest   runs the tests on the newest release of every dependency; make test-oldest on the oldest (TESTS=paths)
# make test-page   runs the chat page in a browser (apt-get install chromium chromium-driver)
# make docs   writes the documentation as a site to site/
# make constraints   rewrites the pinned versions; make audit checks them for known vulnerabilities
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip
IMAGES ?=
OUTPUT ?= demo_output
# Number of test processes, and the tests that they run (empty: all).
WORKERS ?= 2
TESTS ?=
# Pinned versions that are installed; empty: the newest that setup.py allows.
PINS ?= constraints.txt
# The lowest versions that setup.py allows: of everything, and of what the package itself needs.
OLDEST = tests/environments/oldest.txt
FLOOR = tests/environments/floor.txt
TOOLS = .venv-tools
GRADIO = .venv-gradio

.PHONY: help demo chat test test-slow test-newest test-oldest test-page pytest lint train docs constraints audit clean

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

# Hashes hold for files, so the package itself is installed apart, with the pinned setuptools.
$(VENV)/.installed: setup.py $(PINS)
	@echo "Installing UniMuR and what it needs into $(VENV) (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
ifeq ($(PINS),)
	$(PIP) install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable ".[all,dev]"
else
	$(PIP) install --quiet --disable-pip-version-check --require-hashes --requirement $(PINS)
	$(PIP) install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endif
	@touch $@

# Hides a message of torch about torchao, as modeling_unimur/cli/main.py does.
demo: export TORCH_LOGS ?= -torch.utils._pytree
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
	$(MAKE) pytest

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(TESTS)

test-newest:
	rm -f .venv-newest/.installed
	$(MAKE) pytest VENV=.venv-newest PINS=

test-oldest:
	$(MAKE) pytest VENV=.venv-oldest PINS=$(OLDEST)

test-slow: $(VENV)/.installed $(GRADIO)/.installed
	$(PIP) install --quiet --disable-pip-version-check --editable ".[ray,mteb,langchain,llama_index,haystack,clients,lora,qdrant,lancedb,docs]"
	$(BIN)/python -m pytest

# Gradio requires an older Pillow, so it is installed in a folder of its own.
$(GRADIO)/.installed: $(VENV)/.installed tests/environments/gradio.txt
	$(PIP) install --quiet --disable-pip-version-check --no-deps --target $(GRADIO) --requirement tests/environments/gradio.txt
	@touch $@

test-page: $(GRADIO)/.installed
	$(BIN)/python -m pytest tests/space/test_page.py

lint: $(VENV)/.installed
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(VENV)/.installed
	$(PIP) install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/python -m mkdocs build --strict

# The heads are trained on the committed projection, not on the one that was trained just before.
train: $(VENV)/.installed
	$(BIN)/python conversion/assemble_unimur_mini.py
	$(BIN)/python conversion/assemble_clip_lite2_minilm.py --untrained
	$(BIN)/unimur train recipes/clip_lite2_minilm.yaml
	$(BIN)/unimur train recipes/unimur_mini.yaml
	$(BIN)/unimur train recipes/unimur_mini_anchor.yaml model.heads=runs/unimur_mini/model.safetensors

$(TOOLS)/.installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv pip-audit
	@touch $@

# For every Python and system at once. UV_CONSTRAINT=file holds releases back that this machine cannot install.
COMPILE = $(TOOLS)/bin/uv pip compile setup.py --quiet --universal --python-version 3.10 --upgrade --no-annotate \
	--no-emit-index-url --custom-compile-command "make constraints"

constraints: $(TOOLS)/.installed
	$(COMPILE) --extra all --extra dev --generate-hashes --output-file constraints.txt
	$(COMPILE) --extra all --extra dev --generate-hashes --resolution lowest-direct --output-file $(OLDEST)
	$(COMPILE) --resolution lowest-direct --output-file $(FLOOR)

# A version that the vulnerability database cannot check is an error.
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit --strict --disable-pip $(foreach pins,constraints.txt $(OLDEST),--requirement $(pins))

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest $(TOOLS) $(GRADIO) build site demo_output runs *.egg-info .pytest_cache .ruff_cache
