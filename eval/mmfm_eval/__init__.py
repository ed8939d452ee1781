"""Suites of evaluation tasks across modalities: `mmfm eval CHECKPOINT SUITE.yaml`, and evaluators
for the training loop.
"""
