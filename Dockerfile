# One image for the operator and the worker: `docker build -t enrollgate .`
# In your own registry, pin the base image by digest.
# The steps are scripts in scripts/image. So tests/image/image_root.py, which builds this file without
# a container engine, runs the same steps. Why it holds what it holds: docs/decisions/0008-small-image.md.
FROM python:3.13.9-slim-bookworm AS build
WORKDIR /build
COPY requirements/runtime.txt requirements/runtime.txt
COPY scripts/image scripts/image
RUN scripts/image/dependencies
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN scripts/image/project

FROM python:3.13.9-slim-bookworm
LABEL org.opencontainers.image.title="Enrollgate" \
      org.opencontainers.image.description="Downloads the courses of enrolled task rows in MySQL, with one Kubernetes Job per task" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/enrollgate/enrollgate" \
      org.opencontainers.image.documentation="https://github.com/enrollgate/enrollgate/tree/main/docs"
RUN --mount=type=bind,source=scripts/image,target=/run/image /run/image/runtime
COPY --from=build /opt/enrollgate /opt/enrollgate
ENV PATH=/opt/enrollgate/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["enrollgate"]
CMD ["run"]
