# make demo: set up and play one task; make test: set up and run the tests. See README.md.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo test proof frameworks nightly check format bundle docs bench soak clean help

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## Make the virtual environment and look after bubblewrap

$(STAMP): pyproject.toml requirements/lock.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh scripts/system-package.sh python3-venv "virtual environments"
	@command -v bwrap >/dev/null || sh scripts/system-package.sh bubblewrap "sandboxes; Docker does, too" || true
	@echo "Making the virtual environment $(VENV)..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: setup  ## Play Fashion-MNIST with a scripted agent, from nothing to a score
	@$(BIN)/mlgym-mcp tasks prepare fashion_mnist
	@$(BIN)/python -m mlgym_clients.demo

test: setup  ## Run the tests
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

proof: setup  ## Prove all tasks, without the slow reference solutions
	@$(BIN)/mlgym-mcp tasks check --all --no-reference --jobs 3

frameworks: setup  ## Play with the agent frameworks and desktop clients that CI has no time for
	@$(BIN)/python -m pytest tests/frameworks tests/desktop -m frameworks

nightly: setup  ## Prove all tasks, references included, and what of the full presets needs no download
	@$(BIN)/mlgym-mcp tasks check --all --jobs 2
	@for task in battle_of_sexes blotto fashion_mnist model_soup prisoners_dilemma; do \
		$(BIN)/mlgym-mcp tasks check $$task --preset full || exit 1; done

check: setup  ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bundle: setup  ## Pack the Claude Desktop bundle into dist/
	@$(BIN)/python clients/desktop/build.py

docs: setup  ## Make the documentation's site in build/site
	@$$($(BIN)/python -m tests.frameworks.environments docs | cut -d' ' -f1) -m sphinx --fail-on-warning --quiet docs build/site
	@echo "build/site/index.html"

bench: setup  ## Measure starts, tool calls, session starts, many sessions, snapshots, grading, reports, sweeps
	$(BIN)/python bench/starts.py
	$(BIN)/python bench/tool_call.py
	$(BIN)/python bench/session_start.py
	$(BIN)/python bench/fleet.py --backends bubblewrap,docker --sizes 1,16,64
	$(BIN)/python bench/fleet.py --sizes 256
	$(BIN)/python bench/snapshot.py
	$(BIN)/python bench/grading.py
	$(BIN)/python bench/records.py
	$(BIN)/python bench/sweep.py

soak: setup  ## Make and end sessions at random for 10 minutes, then look for what is left
	$(BIN)/python bench/soak.py --minutes 10 --backends bubblewrap,docker

clean:  ## Remove the virtual environment
	rm -rf $(VENV)
