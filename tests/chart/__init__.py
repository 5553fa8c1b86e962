"""The chart, the manifests and what is generated from them, without a cluster: rendered by the real Helm and looked at."""
