"""When and how a run judges its model: evaluation, the best checkpoint, the test at the end."""
