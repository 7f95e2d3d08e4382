# Every target sets up what it needs by requirements/set-up, which does nothing where nothing is to be
# done. It chooses the stack (TFX and Python) that fits this machine, and says which; STACK=classic,
# STACK=modern and PYTHON=/path/to/python choose another.

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
.PHONY: run test test-all test-modern e2e-real reference test-jax airflow-demo test-airflow test-kubeflow images test-images lint format protocol lock bench clean help

export TF_CPP_MIN_LOG_LEVEL ?= 3
export STACK PYTHON
# Whatever environment the shell has activated, ours is .venv.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
# Without kept bytecode every process would compile TFX and TensorFlow anew, for 20 s.
unexport PYTHONDONTWRITEBYTECODE

FOLDERS := schema modeling components serving pipeline sample
BIN := .venv/bin
SET_UP := requirements/set-up

run:  ## run the pipeline on the embedded sample, into OUTPUT (build/sample)
	@$(SET_UP) run
	$(BIN)/bert-tfx run --task sample --output "$(OUTPUT)"
	echo
	echo "The pushed model, served and asked over gRPC: bert-tfx predict --model $(OUTPUT)/serving \"$(ASKED)\""
	$(BIN)/bert-tfx predict --model "$(OUTPUT)/serving" "$(ASKED)"

test:  ## run the tests but the slow ones; PYTEST_ARGS="-k vocabulary -x" is passed on
	@$(SET_UP) dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not real and not slow" $(PYTEST_ARGS)

test-all:  ## run the slow tests, too
	@$(SET_UP) dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-modern:  ## make test on the modern stack in a Debian 13, where this system is older (needs root)
	@.ci/in-debian-13 make test PYTEST_ARGS="$(PYTEST_ARGS)"

e2e-real:  ## the heavy proofs, most on real datasets (../shared), many minutes
	@$(SET_UP) dev
	$(BIN)/python -m pytest -m real -s $(PYTEST_ARGS)

reference:  ## set up what e2e-real compares the models with (transformers)
	@$(SET_UP) reference

test-jax:  ## run the encoders under Keras' JAX backend, without TensorFlow
	@$(SET_UP) jax
	KERAS_BACKEND=jax .venv-jax/bin/python -m pytest tests/reference/test_jax.py $(PYTEST_ARGS)

airflow-demo:  ## run the sample under a real Airflow scheduler; ARGS="--database postgresql"
	@$(SET_UP) run
	$(SET_UP) airflow
	$(BIN)/python -u tests/airflow/demo.py --airflow .venv-airflow/bin/airflow $(ARGS)

test-airflow:  ## test the DAG file with Airflow installed
	@$(SET_UP) airflow
	.venv-airflow/bin/python -m pytest tests/pipeline/orchestrators/test_airflow_dag.py $(PYTEST_ARGS)

test-kubeflow:  ## test the pipeline for Kubeflow with its SDK installed
	@$(SET_UP) kubeflow
	.venv-kubeflow/bin/python -m pytest tests/pipeline/orchestrators/kubeflow/test_compiler.py \
	    tests/pipeline/commands/test_submit.py tests/kubeflow $(PYTEST_ARGS)

images:  ## build the container images; ENGINE=podman for another engine
	@version=$$(sed -nE 's/^ +version="(.*)",$$/\1/p' setup.py)
	$(ENGINE) build --tag "bert-tfx:$$version" --target pipeline .
	$(ENGINE) build --tag "bert-tfx-server:$$version" --target server .
	$(ENGINE) build --tag "bert-tfx-client:$$version" --file Dockerfile.client .

test-images:  ## build and run the images without a registry (needs root, buildah, podman)
	@$(SET_UP) dev
	$(BIN)/python -m pytest -m real -s tests/container $(PYTEST_ARGS)

lint:  ## check rules and format (ruff) and types (mypy)
	@$(SET_UP) dev
	mkdir -p build/mypy/bert_tfx
	for folder in $(FOLDERS); do ln -sfn "../../../$$folder" "build/mypy/bert_tfx/$$folder"; done
	failed=
	$(BIN)/ruff check . || failed="$$failed rules"
	$(BIN)/ruff format --check . || failed="$$failed format"
	$(BIN)/python -m mypy || failed="$$failed types"
	$(BIN)/python -m mypy benchmarks/*.py || failed="$$failed types of benchmarks"
	[ -z "$$failed" ] || { echo "lint: failed:$$failed" >&2; exit 1; }

format:  ## rewrite imports and layout as lint wants them
	@$(SET_UP) dev
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

protocol:  ## compile the messages of serving/protocol/protos after an edit
	@uv=$$($(SET_UP) uv)
	cd serving/protocol/protos
	"$$uv" tool run --isolated --from grpcio-tools==1.81.1 python -m grpc_tools.protoc -I. --include_imports \
	    --descriptor_set_out=descriptors.binpb *.proto

lock:  ## rewrite the lock files from setup.py; LOCK_ARGS=--upgrade for newer releases
	@requirements/lock $(LOCK_ARGS)

bench:  ## measure the speed; what is measured, and how, is told in benchmarks/
	@$(SET_UP) dev
	$(BIN)/python benchmarks/run.py

clean:  ## remove what was set up, build and all caches; outputs elsewhere stay
	@rm -rf .uv .venv .venv-airflow .venv-kubeflow .venv-reference .venv-jax build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@echo "usage: make TARGET"
	sed -nE 's/^([a-z0-9-]+):.*  ## (.*)/  \1\t\2/p' Makefile | expand -t 16
