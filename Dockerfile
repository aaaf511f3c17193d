# syntax=docker/dockerfile:1
# The command line of astropt-db: migrations and workers of docker-compose.yml.
#   CPU:  docker build -t astropt-db .
#   GPU:  docker build -t astropt-db:gpu --build-arg TORCH_INDEX= .
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY astropt_db astropt_db
COPY migrations migrations
COPY sql sql
# An address that pip asks besides its usual one; PyTorch keeps wheels without CUDA (0.2 GB
# instead of 3) on a page of its own. Empty: the wheel with CUDA from the usual index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/astropt-db \
    && PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" /opt/astropt-db/bin/pip install \
        --no-cache-dir '.[cloud,hf]' -c constraints.txt

FROM python:3.12-slim-bookworm
RUN groupadd --gid 10001 astropt && useradd --uid 10001 --gid astropt --create-home astropt
COPY --from=build /opt/astropt-db /opt/astropt-db
ENV PATH=/opt/astropt-db/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ASTROPT_DB_LOG_FORMAT=json
USER 10001:10001
WORKDIR /home/astropt
ENTRYPOINT ["astropt-db"]
CMD ["--help"]
