# The worker's image. It runs as a user without privileges, on a read-only root, and starts no shell.
#
#   docker build -t pythia-worker .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL pythia-worker
#
# For a worker of your own: FROM pythia-worker, COPY its package to /app, CMD ["run", "shop.worker:ShopWorker"].

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv --without-pip /opt/pythia \
    && python3 -m venv /opt/build \
    && mkdir --mode=0700 /data
# What is locked comes first: it is a layer that changes of the code leave alone. No compiler, so wheels only.
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/pythia install --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY pythia pythia
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/pythia install --no-deps --no-index /wheels/*.whl

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="pythia-worker" \
      org.opencontainers.image.description="An asyncio message-broker consumer service that can prove it lost nothing" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"
# XDG_STATE_HOME: what is known of messages that kill their process outlives the container, as the queue does.
ENV PATH=/opt/pythia/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHIA_HTTP__HOST=0.0.0.0 \
    XDG_STATE_HOME=/data
COPY --from=build /opt/pythia /opt/pythia
COPY --from=build --chown=10001:10001 /data /data
COPY config/container /app/config
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["pythia", "health", "--live"]
ENTRYPOINT ["pythia"]
CMD ["run", "pythia.examples.orders:OrderWorker"]
