# The commands themselves stand in scripts/test, which also runs where there is no make.
.PHONY: checks test test-all format

checks:     ## linting, formatting, types, directions of imports
	scripts/test checks

test:       ## all tests but the slow ones and those that need a GPU
	scripts/test fast

test-all:   ## all tests but those that need a GPU
	scripts/test all

format:     ## mend what the linter and the formatter can mend by themselves
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
