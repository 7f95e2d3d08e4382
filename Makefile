# Every target sets up what it needs in .venv, and does nothing where nothing is to be done.

PYTHON ?= python3.10
PYTHON311 ?= python3.11
OUTPUT ?= build/sample
ASKED ?= The staff were rude.
PYTEST_ARGS ?=
ARGS ?=
LOCK_ARGS ?=
ENGINE ?= docker

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: run test e2e-real reference test-jax airflow-demo test-airflow test-kubeflow images test-images lint format lock bench clean help

export TF_CPP_MIN_LOG_LEVEL ?= 3
# The user names the interpreter; uv must not download another one.
export UV_PYTHON_DOWNLOADS := never
# TensorFlow is a download of 600 MB: a slow line may stall for longer than uv's half a minute.
export UV_HTTP_TIMEOUT ?= 300
# Whatever environment the shell has activated, ours is .venv.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

FOLDERS := schema modeling components serving pipeline sample
BIN := .venv/bin

run: .venv/.run-installed  ## run the pipeline on the embedded sample, into OUTPUT (build/sample)
	@$(BIN)/bert-tfx run --task sample --output "$(OUTPUT)"
	echo
	echo "The pushed model, served and asked over gRPC: bert-tfx predict --model $(OUTPUT)/serving \"$(ASKED)\""
	$(BIN)/bert-tfx predict --model "$(OUTPUT)/serving" "$(ASKED)"

test: .venv/.dev-installed  ## run the tests; PYTEST_ARGS="-k vocabulary -x" is passed on
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

e2e-real: .venv/.dev-installed  ## the heavy proofs, most on real datasets (../shared), many minutes
	@$(BIN)/python -m pytest -m real -s $(PYTEST_ARGS)

reference: .venv-reference/.installed  ## set up what e2e-real compares the models with (transformers)

test-jax: .venv-jax/.installed  ## run the encoders under Keras' JAX backend, without TensorFlow
	@KERAS_BACKEND=jax .venv-jax/bin/python -m pytest tests/reference/test_jax.py \
	    tests/reference/test_training_step.py $(PYTEST_ARGS)

airflow-demo: .venv-airflow/.installed .venv/.run-installed  ## run the sample under a real Airflow scheduler; ARGS="--database postgresql"
	@$(BIN)/python -u -m bert_tfx.pipeline.airflow_demo --airflow .venv-airflow/bin/airflow $(ARGS)

test-airflow: .venv-airflow/.installed  ## test the DAG file with Airflow installed
	@.venv-airflow/bin/python -m pytest tests/pipeline/test_airflow_dag.py $(PYTEST_ARGS)

test-kubeflow: .venv-kubeflow/.installed  ## test the pipeline for Kubeflow with its SDK installed
	@.venv-kubeflow/bin/python -m pytest tests/pipeline/test_kubeflow_runner.py \
	    tests/pipeline/commands/test_submit.py tests/kubeflow $(PYTEST_ARGS)

images:  ## build the container images; ENGINE=podman for another engine
	@version=$$(sed -nE 's/^ +version="(.*)",$$/\1/p' setup.py)
	$(ENGINE) build --tag "bert-tfx:$$version" --target pipeline .
	$(ENGINE) build --tag "bert-tfx-server:$$version" --target server .
	$(ENGINE) build --tag "bert-tfx-client:$$version" --file Dockerfile.client .

test-images: .venv/.dev-installed  ## build and run the images without a registry (needs root, buildah, podman)
	@$(BIN)/python -m pytest -m real -s tests/container $(PYTEST_ARGS)

lint: .venv/.dev-installed  ## check rules and format (ruff) and types (mypy)
	@mkdir -p build/mypy/bert_tfx
	for folder in $(FOLDERS); do ln -sfn "../../../$$folder" "build/mypy/bert_tfx/$$folder"; done
	failed=
	$(BIN)/ruff check . || failed="$$failed rules"
	$(BIN)/ruff format --check . || failed="$$failed format"
	$(BIN)/python -m mypy || failed="$$failed types"
	$(BIN)/python -m mypy benchmarks/*.py || failed="$$failed types of benchmarks"
	[ -z "$$failed" ] || { echo "lint: failed:$$failed" >&2; exit 1; }

format: .venv/.dev-installed  ## rewrite imports and layout as lint wants them
	@$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

lock: .venv/.uv-installed  ## rewrite the lock files from setup.py; LOCK_ARGS=--upgrade for newer releases
	@$(UV_LOCK) setup.py --extra pipeline -c requirements/constraints.txt -o requirements/run.txt
	$(UV_LOCK) setup.py --extra pipeline --extra onnx --extra dev -c requirements/constraints.txt -c requirements/run.txt \
	    -o requirements/dev.txt
	$(UV) pip compile --quiet --generate-hashes --custom-compile-command "make lock" --no-annotate \
	    --universal --fork-strategy fewest --python-version 3.10 $(LOCK_ARGS) \
	    setup.py requirements/airflow.in --extra airflow -o requirements/airflow.txt
	$(UV_LOCK) setup.py --extra client --no-annotate -c requirements/constraints.txt -o requirements/client.txt
	$(UV_LOCK) setup.py requirements/kubeflow.in --extra pipeline --no-annotate \
	    -c requirements/constraints.txt -c <(sed -nE '/^(urllib3|google-cloud-|google-resumable|requests-toolbelt|kubernetes)/d; s/^([a-z0-9][^ ]*==[^ ]+).*/\1/p' requirements/dev.txt) \
	    -o requirements/kubeflow.txt
	echo uv | $(UV_LOCK) - --no-annotate -o requirements/uv.txt
	$(UV_LOCK_311) $(TORCH_AT) requirements/reference.in -o requirements/reference.txt \
	    --excludes <(echo sentence-transformers)
	$(UV_LOCK_311) requirements/jax.in -o requirements/jax.txt \
	    -c <(sed -nE 's/^((keras|safetensors|pytest|pytest-timeout)==[^ ]+).*/\1/p' requirements/dev.txt)

bench: .venv/.dev-installed  ## measure the speed; what is measured, and how, is told in benchmarks/
	@$(BIN)/python benchmarks/run.py

clean:  ## remove .venv, build and all caches; outputs elsewhere stay
	@rm -rf .venv .venv-airflow .venv-kubeflow .venv-reference .venv-jax build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@echo "usage: make TARGET"
	sed -nE 's/^([a-z0-9-]+):.*  ## (.*)/  \1\t\2/p' Makefile | expand -t 16

# The set-up. A step that was cut short leaves .venv/.unfinished behind, and an interpreter may have
# been removed since: .venv is then made anew. Two makes at a time take turns.

HOLD = exec 9<Makefile; flock -n 9 || { echo "set-up: waiting for the other make here" >&2; flock 9; }
IS_PYTHON_3_10 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1
USABLE := $(shell $(HOLD); [ ! -e .venv/.unfinished ] && $(BIN)/python $(IS_PYTHON_3_10) && echo yes)
# Tried by running it: a pyenv shim can exist and still fail.
UV_ON_PATH := $(shell uv --version >/dev/null 2>&1 && echo uv)
UV := $(or $(UV_ON_PATH),$(BIN)/uv)
ifeq ($(and $(USABLE),$(or $(UV_ON_PATH),$(wildcard $(UV)))),)
.PHONY: .venv/.uv-installed
endif

UV_INSTALL = $(UV) pip install --quiet --python $(BIN)/python
UV_LOCK = $(UV) pip compile --quiet --generate-hashes --custom-compile-command "make lock" \
    --python-version 3.10 --python-platform x86_64-manylinux_2_28 $(LOCK_ARGS)
UV_LOCK_311 = $(subst --python-version 3.10,--python-version 3.11,$(UV_LOCK)) --no-annotate
# PyTorch's CPU build comes from PyTorch's own index, which uv knows, or from a folder of wheels.
WHEELS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
TORCH_AT := $(or $(addprefix --find-links ,$(WHEELS)),--torch-backend cpu)

define NO_PYTHON
  The lock files pin TFX 1.16, which installs on Python 3.10 only. To get it:
    Debian, Ubuntu  apt install python3.10 python3.10-venv  (where it is not packaged: the
                    deadsnakes PPA on Ubuntu, or one of the next three)
    pyenv           pyenv install 3.10
    uv              uv python install 3.10
    conda           conda create -n python310 python=3.10
  An interpreter that is not on PATH as python3.10 is named like this:
    make $(or $(firstword $(MAKECMDGOALS)),run) PYTHON=/path/to/python3.10
endef
define NO_VENV
set-up: $(PYTHON) makes no virtual environment (its message stands above).
  On Debian and Ubuntu: apt install python3.10-venv
endef
export NO_PYTHON NO_VENV

.venv/.uv-installed: requirements/uv.txt
	@$(HOLD)
	if [ "$(USABLE)" != yes ]; then
	  if ! "$(PYTHON)" $(IS_PYTHON_3_10); then
	    echo "set-up: Python 3.10 is needed; '$(PYTHON)' answers:" \
	        "$$("$(PYTHON)" --version 2>&1 | sed -n '1s/^bash: line [0-9]*: //;1p')" >&2
	    echo "$$NO_PYTHON" >&2
	    exit 1
	  fi
	  [ ! -e .venv ] || echo "set-up: .venv is unfinished or has lost its Python: it is made anew"
	  echo "set-up: making .venv with $$("$(PYTHON)" --version)"
	  rm -rf .venv
	  mkdir .venv
	  touch .venv/.unfinished
	  "$(PYTHON)" -m venv .venv || { echo "$$NO_VENV" >&2; exit 1; }
	fi
	if [ -z "$(UV_ON_PATH)" ]; then
	  touch .venv/.unfinished
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	fi
	rm -f .venv/.unfinished
	touch $@

.venv/.run-installed: .venv/.uv-installed requirements/run.txt setup.py pyproject.toml
	@$(HOLD)
	touch .venv/.unfinished
	echo "set-up: installing $$(grep -c == requirements/run.txt) packages from requirements/run.txt" \
	    "(about 1 GB to download where uv has none of them yet)"
	$(UV_INSTALL) --require-hashes -r requirements/run.txt
	$(UV_INSTALL) --no-deps --no-build-isolation -e .
	rm .venv/.unfinished
	touch $@
	echo "set-up: done in $$SECONDS s"

.venv/.dev-installed: .venv/.run-installed requirements/dev.txt
	@$(HOLD)
	touch .venv/.unfinished
	echo "set-up: installing the development tools from requirements/dev.txt"
	$(UV_INSTALL) --require-hashes -r requirements/dev.txt
	rm .venv/.unfinished
	touch $@
	echo "set-up: done in $$SECONDS s"

# More environments, each for a purpose of its own. An unfinished one has no mark and is made anew.

define NEW_VENV
$(HOLD)
if ! "$(PYTHON311)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
  echo "set-up: Python 3.11 is needed for $(@D), as PYTHON311=/path/to/python3.11" >&2
  exit 1
fi
echo "set-up: installing $$(grep -c == $<) packages from $< into $(@D)"
rm -rf $(@D)
$(UV) venv --quiet --no-project --python "$(PYTHON311)" $(@D)
endef

.venv-reference/.installed: requirements/reference.txt | .venv/.uv-installed
	@$(NEW_VENV)
	$(UV) pip sync --quiet --python $(@D)/bin/python --require-hashes $(TORCH_AT) $<
	touch $@
	echo "set-up: done in $$SECONDS s"

.venv-jax/.installed: requirements/jax.txt setup.py | .venv/.uv-installed
	@$(NEW_VENV)
	$(UV) pip sync --quiet --python $(@D)/bin/python --require-hashes $<
	$(UV) pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation -e .
	touch $@
	echo "set-up: done in $$SECONDS s"

# The interpreter of .venv. Airflow 3 does not fit beside TFX, and only starts its command.
.venv-airflow/.installed: requirements/airflow.txt setup.py | .venv/.uv-installed
.venv-kubeflow/.installed: requirements/kubeflow.txt setup.py | .venv/.uv-installed
.venv-airflow/.installed .venv-kubeflow/.installed:
	@$(HOLD)
	echo "set-up: installing $$(grep -c == $<) packages from $< into $(@D)"
	rm -rf $(@D)
	$(UV) venv --quiet --no-project --python $(BIN)/python $(@D)
	$(UV) pip sync --quiet --python $(@D)/bin/python --require-hashes $<
	$(UV) pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation -e .
	touch $@
	echo "set-up: done in $$SECONDS s"
