# One image for the operator and the worker: `docker build -t enrollgate .`
# Pin the base by digest in your own registry: a digest of yours is worth more than one of ours.
# The steps are in scripts/image, so that tests/image/image_root.py, which follows this file where no container engine is, runs the same.
FROM python:3.13.9-slim-bookworm AS build
WORKDIR /build
COPY requirements/runtime.txt requirements/runtime.txt
COPY scripts/image scripts/image
RUN scripts/image/dependencies
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN scripts/image/project

FROM python:3.13.9-slim-bookworm
RUN --mount=type=bind,source=scripts/image,target=/run/image /run/image/runtime
COPY --from=build /opt/enrollgate /opt/enrollgate
ENV PATH=/opt/enrollgate/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["enrollgate"]
CMD ["run"]
