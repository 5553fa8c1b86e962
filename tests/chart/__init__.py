"""Tests of the chart, the manifests and the generated pages, with Helm and without a cluster."""
