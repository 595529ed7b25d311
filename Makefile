# Each target makes .venv by itself when it is missing or older than setup.cfg; nothing else needs to be installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_FLAGS ?= -q -n auto --dist loadfile

RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test

.DEFAULT_GOAL := help
.PHONY: help quickstart figures results crowd test lint format clean

help:
	@echo "make quickstart   packaged tree -> train -> evaluate -> report, then three questions to the real models"
	@echo "make figures      the tables and pictures of docs/figures, made anew from the packaged tree"
	@echo "make results      every table and picture of docs/RESULTS.md, made anew from the packaged trees"
	@echo "make crowd        the tables and pictures of docs/crowd.md, made anew by the small pool; what was asked is kept in runs/"
	@echo "make test         every test"
	@echo "make lint         ruff, mypy, import contracts, sizes"
	@echo "make format       ruff format"
	@echo "make clean        remove .venv and caches (runs/ stays)"

# What running needs. An environment made for the tests serves as well: its stamp touches this one too.
$(RUN_STAMP): setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# What tests and lint need besides; among it torch, the oracle of the model tests.
$(TEST_STAMP): setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(RUN_STAMP) $@

quickstart: $(RUN_STAMP)
	$(BIN)/hierrouter quickstart

figures: $(RUN_STAMP)
	rm -rf runs/figures
	$(BIN)/hierrouter quickstart --no-live --out runs/figures
	$(BIN)/hierrouter report runs/figures --figures docs/figures --markdown docs/figures/table.md
	$(BIN)/hierrouter sweep --conditioned --out runs/figures/sweep --picture docs/figures/sweep.png
	$(BIN)/python experiments/fill_tables.py

results: $(RUN_STAMP)
	$(BIN)/python experiments/six_benchmarks.py --out docs/results/six_benchmarks
	$(BIN)/python experiments/third_hop.py --out docs/results
	$(BIN)/python experiments/later_hops.py --out docs/results
	$(BIN)/python experiments/outcomes.py --out docs/results
	$(BIN)/python experiments/fill_tables.py

CROWD_MATRIX := $(BIN)/hierrouter crowd matrix --crew experiments/crowd/crews/each.toml --store runs/crowd.sqlite

crowd: $(RUN_STAMP)
	$(BIN)/hierrouter quickstart --no-live --out runs/quickstart
	$(BIN)/python experiments/crowd_chains.py --store runs/crowd.sqlite --out docs/results/crowd
	for number in 4 0; do \
	  $(CROWD_MATRIX) arithmetic --inputs experiments/crowd/inputs/sums.jsonl --options num_examples=$$number \
	    --out docs/results/crowd/examples_$$number && \
	  $(CROWD_MATRIX) find_fix_verify --inputs experiments/crowd/inputs/proofread.jsonl --options num_examples=$$number \
	    --out docs/results/crowd/examples_$$number || exit 1; \
	done
	$(BIN)/python experiments/crowd_algorithms.py --store runs/crowd.sqlite \
	  --out experiments/crowd/results --tables docs/results/crowd
	$(BIN)/python experiments/crowd_examples.py --store runs/crowd.sqlite --out docs/crowd_examples.md
	$(BIN)/python experiments/fill_tables.py

test: $(TEST_STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_sizes.py

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
