# `make demo` shows what vqtrt does; `make test` checks that it still does. Both install first.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# The Python half of other versions of CUDA's and TensorRT's packages, for tests/engines/test_bindings.py.
BINDINGS := tensorrt-10.13.2.6 tensorrt-10.16.1.11 tensorrt-11.4.0.106 cuda-12.9.7
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install bindings demo test lint types unit docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,rtx,speech,train,docs,dev]"
	@touch $@

bindings: $(BINDINGS:%=$(VENV)/bindings/%)

$(VENV)/bindings/tensorrt-%: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target $@ tensorrt-cu13-bindings==$*
	@touch $@

$(VENV)/bindings/cuda-%: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target $@ cuda-bindings==$*
	@touch $@

demo: $(INSTALLED)
	rm -rf demo
	vqtrt shapes demo/images --num 500
	vqtrt train shapes --out demo/run
	vqtrt train-prior shapes --model demo/run
	vqtrt export demo/run
	vqtrt encode demo/images --model demo/run --out demo/codes.npy
	vqtrt decode demo/codes.npy --model demo/run --out demo/recon
	vqtrt eval demo/images --model demo/run --grid demo/reconstructions.png
	vqtrt sample --prior shapes --model demo/run --num 80 --grid demo/samples.png
	@echo "Originals over reconstructions: demo/reconstructions.png"
	@echo "New pictures, a line a class: demo/samples.png"

test: lint types unit

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	lint-imports --no-cache

types: $(INSTALLED)
	mypy

unit: $(INSTALLED) bindings
	OMP_NUM_THREADS=1 python -m pytest -n logical --dist loadfile --no-loadscope-reorder

# Writes the tables of docs/reference from the code, and the site into build/site.
docs: $(INSTALLED)
	python docs/generate.py
	mkdocs build --quiet

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
