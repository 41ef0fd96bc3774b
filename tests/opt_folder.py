"""A small OPT with random weights and a tokenizer of its own, as a folder."""

import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "random_opt.py"


def make_opt_folder(folder, lines, positions=512):
    """Runs the project's own script on a file of these lines and returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = [str(folder), str(folder / "lines.txt"), "--layers", "2", "--hidden", "64", "--vocabulary", "400"]
    saved, sys.argv = sys.argv, [str(SCRIPT), *arguments, "--positions", str(positions)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        sys.argv = saved
    return str(folder)
