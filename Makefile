# The five things one does in a checkout; each uses the environment that setup makes.
.PHONY: setup test slow check demo

setup:  ## an environment with everything that development needs
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ".[dev]"

test:  ## the default tests, some minutes on two cores
	.venv/bin/python -m pytest

slow:  ## the tests that take longer
	.venv/bin/python -m pytest -m slow

check:  ## lint, format and types
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

demo:  ## the main job on the embedded demo
	.venv/bin/meft-run
