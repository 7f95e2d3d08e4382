# The pipeline, its server and a Beam worker as images; docs/container.md tells how to use them.
# A tag can be moved. For a build that can be repeated name the digest, too:
#   --build-arg PYTHON_IMAGE=python:3.13.16-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.13.16-slim-trixie
# The release of apache-beam in requirements/modern/run.txt.
ARG BEAM_VERSION=2.75.0

FROM ${PYTHON_IMAGE} AS builder
# A package index other than PyPI. Of this stage nothing but the environment goes on.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
# Compiled here, because the user of the image may not write there: TFX would take twice as long
# to import, every time.
ENV UV_COMPILE_BYTECODE=1 UV_HTTP_TIMEOUT=300 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /source
COPY requirements/uv.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && uv venv --no-project /opt/bert-tfx
COPY requirements/modern/run.txt requirements/modern/
# rouge-score comes as source, of Python alone; setuptools, which builds it, is the lock's as well.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip sync --python /opt/bert-tfx/bin/python --require-hashes requirements/modern/run.txt \
    --build-constraints requirements/modern/run.txt
COPY . .
RUN uv build --quiet --wheel --out-dir /wheel --require-hashes \
    --build-constraints requirements/modern/run.txt \
    && uv pip install --python /opt/bert-tfx/bin/python --no-deps --no-cache /wheel/*.whl

FROM ${PYTHON_IMAGE} AS pipeline
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bert-tfx" \
    org.opencontainers.image.description="From TSV files to a served BERT classifier, as a TFX pipeline" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root's.
RUN pip uninstall --yes --quiet --root-user-action=ignore pip \
    && groupadd --gid 10001 bert-tfx \
    && useradd --uid 10001 --gid 10001 --create-home bert-tfx \
    && install --directory --owner 10001 --group 10001 /work
COPY --from=builder /opt/bert-tfx /opt/bert-tfx
ENV PATH=/opt/bert-tfx/bin:$PATH \
    BERT_TFX_CACHE=/work/.cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=3
USER 10001:10001
WORKDIR /work
VOLUME /work
# The first process of a container does not die of SIGTERM unless it handles it. Ctrl-C's signal ends
# each of the commands in order.
STOPSIGNAL SIGINT
ENTRYPOINT ["bert-tfx"]
CMD ["--help"]

FROM pipeline AS server
EXPOSE 8500
# For a server on another port, give a check of your own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "from bert_tfx.serving.client import Client; exit(not Client('127.0.0.1:8500', timeout=4).is_healthy())"]
ENTRYPOINT ["bert-tfx", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/models/model"]

FROM apache/beam_python3.13_sdk:${BEAM_VERSION} AS beam-sdk

FROM pipeline AS beam-worker
COPY --from=beam-sdk /opt/apache/beam/boot /opt/apache/beam/boot
# The environment of the image is complete; another one would be made for each worker.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/apache/beam/boot"]
CMD []

# What is built where no target is named.
FROM pipeline
