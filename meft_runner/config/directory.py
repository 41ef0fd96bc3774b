"""Where conf/ is."""

from pathlib import Path


def config_directory() -> str:
    """Returns the folder of conf/: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    return str(next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()))
