# Two commands do all: `make demo` runs the main job, `make test` passes the tests.
# Both make .venv first, from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: demo test quick check bench chaos fuzz setup schema docs clean

demo: setup
	$(BIN)/hubpub demo

test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

SINCE ?= HEAD

quick: setup  # seconds: lint, types, and the tests of the packages that have changed since the commit SINCE
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto -m "not slow" $$($(BIN)/python -m tests.support.changed $(SINCE))

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: setup  # 500 kills of convert, publish and fetch; goes on where it was stopped (about an hour)
	HF_HOME=build/chaos/hf HF_HUB_DISABLE_PROGRESS_BARS=1 $(BIN)/python -m tests.chaos.run

FUZZ_SECONDS ?= 120

fuzz: setup  # atheris on every reader of bytes that others wrote, FUZZ_SECONDS each (Linux; a crash-* file where one falls)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	@set -e; for target in $$($(BIN)/python -m tests.fuzz.run); do \
		echo "== $$target"; \
		$(BIN)/python -m tests.fuzz.run $$target -max_total_time=$(FUZZ_SECONDS) -timeout=20 -verbosity=0; \
	done

BENCH ?= build/bench

bench: setup  # everything at full size: an hour and a half on a quiet machine, 60 GB of disk under BENCH (Linux)
	mkdir -p $(BENCH)
	test -e $(BENCH)/sd15/model_index.json || $(BIN)/python benchmarks/make_source.py sd15 $(BENCH)/sd15
	$(BIN)/python benchmarks/main_job.py $(BENCH)/sd15 $(BENCH)/main --verify off
	$(BIN)/python benchmarks/main_job.py $(BENCH)/sd15 $(BENCH)/main --verify weights
	$(BIN)/python benchmarks/main_job.py $(BENCH)/sd15 $(BENCH)/main --verify numeric
	test -e $(BENCH)/sdxl/model_index.json || $(BIN)/python benchmarks/make_source.py sdxl $(BENCH)/sdxl
	$(BIN)/python benchmarks/main_job.py $(BENCH)/sdxl $(BENCH)/main --verify off
	$(BIN)/python benchmarks/main_job.py $(BENCH)/sdxl $(BENCH)/main --verify numeric
	$(BIN)/python benchmarks/palettize.py --coremltools
	$(BIN)/python benchmarks/compile.py
	$(BIN)/python benchmarks/steps.py $(BENCH)/sd15 $(BENCH)/steps
	$(BIN)/python benchmarks/finetunes.py $(BENCH)/tunes --true 2

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "hubpub needs Python 3.11 or newer; say `make PYTHON=python3.12 ...`")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[numeric,coreml,local,dev]'
	@touch $(STAMP)

schema: setup  # regenerate the protobuf classes from hubpub/coreml/schema.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. hubpub/coreml/schema.proto

docs: setup  # write the pages of docs/ that follow from the code
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist
