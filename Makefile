# The six things one does in a checkout; each uses the environment that setup makes.
.PHONY: setup test slow check docs demo

setup:  ## an environment with everything that development needs
	python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ".[dev]"

test:  ## the default tests, some minutes on two cores
	.venv/bin/python -m pytest

slow:  ## the tests that take longer
	.venv/bin/python -m pytest -m slow

check:  ## lint, format, types, and the links of the documentation
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/mkdocs build --strict

docs:  ## the documentation as a site, in site/
	.venv/bin/mkdocs build --strict

demo:  ## the main job on the embedded demo
	.venv/bin/meft-run
