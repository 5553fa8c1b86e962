"""A real Kubernetes node, and the tests that need one: kubelet, containerd, runc, our own image."""
