"""What the README and the pages under docs/ show: blocks of code, commands, links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A block of code between fences.

    Attributes:
        page: where it stands.
        line: of its first line.
        language: as it is marked.
        text: the block.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page):
    """Returns the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, text[: found.start()].count("\n") + 2, *found.groups()) for found in _FENCE.finditer(text)]


def prose(page):
    """Returns a page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page):
    """Returns what stands between single backquotes."""
    return _CODE.findall(prose(page))


def commands(text):
    """Returns the commands in a block of bash, each as a list of words, without comments and here-documents."""
    text = _HERE_DOCUMENT.sub("", text).replace("\\\n", " ")
    simple = [part for line in text.splitlines() for part in line.split(" && ")]
    return [words for words in (shlex.split(part, comments=True) for part in simple) if words]


def shown_commands():
    """Returns every command of every page with its place, those in the text too."""
    found = [
        (block.place, tuple(words))
        for page in PAGES for block in blocks(page) if block.language == "bash" for words in commands(block.text)
    ]  # fmt: skip
    in_text = [(str(page.relative_to(ROOT)), code) for page in PAGES for code in inline_code(page)]
    started = re.compile(r"(meft-\w+|pip|python|torchrun|make|mkdocs) ")
    return found + [(place, tuple(shlex.split(code))) for place, code in in_text if started.match(code)]
