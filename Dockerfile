# One image for the operator and the worker. `docker build -t enrollgate .`
# Pin the base by digest in your own registry: a digest of yours is worth more than one of ours.
FROM python:3.13.9-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/runtime.txt /build/runtime.txt
RUN python -m venv /opt/enrollgate \
    && /opt/enrollgate/bin/pip install --require-hashes -r /build/runtime.txt
COPY pyproject.toml README.md LICENSE /build/
COPY operator /build/operator
RUN pip install setuptools==84.2.1 wheel==0.48.0 \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /build/dist /build \
    && /opt/enrollgate/bin/pip install --no-deps /build/dist/*.whl \
    && /opt/enrollgate/bin/pip uninstall --yes pip

FROM python:3.13.9-slim-bookworm
# hadolint ignore=DL3008 -- Debian's security updates are wanted; an old pin would not even be there any more
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/enrollgate /opt/enrollgate
ENV PATH=/opt/enrollgate/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["enrollgate"]
CMD ["run"]
