"""Evaluation tasks, one a module: a dataclass `Config` whose `build()` gives an `Evaluator` (see
`base`).
"""
