"""The image, built as the Dockerfile says and run as a cluster would: as an unprivileged user, its root read-only."""
