# syntax=docker/dockerfile:1
# Two stages: the first resolves the lock file into an environment, the second holds that environment and nothing else.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/oddstream UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY server/pyproject.toml server/pyproject.toml
COPY clients/python/pyproject.toml clients/python/pyproject.toml
RUN uv sync --locked --no-dev --no-install-workspace
COPY server server
COPY clients/python clients/python
RUN uv sync --locked --no-dev --no-editable

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.title="oddstream-server"
# Two arenas: with more, glibc keeps freed memory apart for each thread and the resident size only grows.
ENV PATH=/opt/oddstream/bin:$PATH PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2 \
    NUMBA_CACHE_DIR=/var/lib/oddstream/compiled \
    ODDSTREAM_DATA_DIR=/var/lib/oddstream ODDSTREAM_GRPC_HOST=127.0.0.1 ODDSTREAM_OPERATIONS_HOST=0.0.0.0
RUN groupadd --system --gid 10001 oddstream \
 && useradd --system --uid 10001 --gid oddstream --home-dir /var/lib/oddstream --create-home oddstream
COPY --from=build /opt/oddstream /opt/oddstream
COPY migrations /opt/oddstream/migrations
ENV ODDSTREAM_MIGRATIONS_DIR=/opt/oddstream/migrations
# The root file system may be read-only: state is in the volume, scratch files in /tmp (mount a tmpfs there).
VOLUME /var/lib/oddstream
USER 10001:10001
WORKDIR /var/lib/oddstream
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["oddstream-server", "health"]
ENTRYPOINT ["oddstream-server"]
CMD ["run"]
