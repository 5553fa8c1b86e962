# One image for the operator and the worker: `docker build -t enrollgate .`
# In your own registry, pin the base image by digest.
# The steps are scripts in scripts/image. So tests/image/image_root.py, which builds this file without
# a container engine, runs the same steps.
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
