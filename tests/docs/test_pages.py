"""Links, names of settings and of files on the pages lead somewhere, and figures are those of the tables."""

import re
import runpy
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
import yaml

from meft_runner.config import METHODS, MemorySettings, PredictSettings, SearchSettings, Settings
from meft_runner.config.commands import ShareSettings, TablesSettings
from meft_runner.config.tasks import TASKS
from tests.helpers.documents import PAGES, ROOT, inline_code, prose

LINKING = [*PAGES, ROOT / "CONTRIBUTING.md"]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SETTING = re.compile(r"^([a-z_]+(?:\.[a-z_0-9]+)?)=")
_OF_PYTHON = {"retain_graph", "packs", "finish_tokenizer", "use_cache"}
_PATH = re.compile(r"^(?:conf|docs|examples|meft_runner|results|scripts|tests)/[\w./*-]*$")


def anchors(page):
    """Returns the names under which a page's headings are found, as GitHub and the site make them."""
    headings = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in _LINK.findall(prose(page)):
        if not link.startswith(("https://", "http://")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link


def known_settings():
    """Returns the names of everything that can be typed as name=."""
    sections = get_type_hints(Settings)
    commands = (Settings, MemorySettings, PredictSettings, ShareSettings, TablesSettings)
    found = {each.name for kind in commands for each in fields(kind)}
    kinds = {name: [kind] for name, kind in sections.items() if is_dataclass(kind)}
    kinds |= {"hpo": [SearchSettings], "method": [*METHODS.values()], "task": [*TASKS.values()]}
    for section, members in kinds.items():
        found |= {f"{section}.{each.name}" for kind in members for each in fields(kind)}
    return found | {"experiment", "scale", "launcher", "output_dir", "mu"}


def test_settings_in_the_text_exist():
    known = known_settings()
    for page in PAGES:
        for code in inline_code(page):
            found = _SETTING.match(code)
            if found and not found[1].startswith("hydra"):
                assert found[1] in known | _OF_PYTHON, f"{page.name}: {code}"


def test_files_in_the_text_exist():
    for page in PAGES:
        for code in filter(_PATH.match, inline_code(page)):
            assert list(ROOT.glob(code.rstrip("/"))) or "NAME" in code, f"{page.name}: {code}"


def test_the_site_shows_every_page_and_command():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert all((ROOT / hook).is_file() for hook in site["hooks"])
    shown = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {f"commands/{command}.md" for command in project["scripts"]} <= shown
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"} <= shown


@pytest.fixture(scope="module")
def cards():
    return runpy.run_path(str(ROOT / "scripts" / "cards.py"), run_name="cards")


def test_the_table_of_cards_is_that_of_its_peaks(cards):
    page = (ROOT / cards["PAGE"]).read_text(encoding="utf-8")
    assert cards["written"](page, cards["tables"](pd.read_csv(ROOT / cards["PEAKS"]))) == page


def test_a_peak_of_the_table_is_predicted_anew(cards):
    row = cards["peak"]("BERT-base, 0.11 billion", (32, 128), "fp32", "LoRA reversed")
    of = ["model", "weights", "rows", "tokens", "method"]
    known = pd.read_csv(ROOT / cards["PEAKS"]).set_index(of)["peak_bytes"]
    assert row["peak_bytes"] == pytest.approx(known[tuple(row[name] for name in of)], rel=1e-3)  # GiB with one place


def test_figures_of_the_readme_are_those_of_its_table():
    table = pd.read_csv(ROOT / "results" / "memory" / "llama3_8b-nf4.csv")
    peaks = table[table["length"] == 32768].set_index("label")["peak_bytes"] / 2**30
    text = " ".join(Path(ROOT / "README.md").read_text(encoding="utf-8").split())
    said = r"a step of LoRA needs (\d+) GiB, .* checkpointing (\d+) GiB, reversed ([\d.]+) .* ([\d.]+) GiB"
    found = re.search(said, text)
    labels = ["lora", "lora + checkpointing", "lora (reversal=exact, 4 bits)", "meft1 + offload"]
    for figure, label in zip(found.groups(), labels, strict=True):
        places = len(figure.partition(".")[2])
        assert f"{peaks[label]:.{places}f}" == figure
