"""What the site has beside the pages of docs/: results/, and what each command prints with --help."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_SHOWN = {"README.md", "scores.md"}  # as pages; other tables are read on their own
_FIGURES = {".png"}
_LINK = re.compile(r"\]\(\.\./((?:\.\./)*results/)")
_HELP = re.compile(r"<!-- help of (meft-\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the overview of results, and their figures, to the site."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / "results").rglob("*")):
        place = path.relative_to(root)
        if (len(place.parts) == 2 and path.name in _SHOWN) or path.suffix in _FIGURES:
            files.append(File.generated(config, place.as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Shows the help of a command, and lets links to results/ lead to where they stand in the site.

    That is one folder nearer than in the repository.
    """
    if page.file.src_uri.startswith("results/"):
        return markdown
    return _HELP.sub(lambda found: _help_of(found[1]), _LINK.sub(r"](\1", markdown))


def _help_of(command: str) -> str:
    script = f"from meft_runner import cli; cli.{command.replace('-', '_')}()"
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    return f"```text\n{done.stdout.strip()}\n```"
