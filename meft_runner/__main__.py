"""`python -m meft_runner` is `meft-run`, for launchers such as torchrun."""

from meft_runner.cli import meft_run

if __name__ == "__main__":
    meft_run()
