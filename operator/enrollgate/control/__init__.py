"""The operator, top to bottom: wiring, the loop, the reconciler, leader election and the kopf controller."""
