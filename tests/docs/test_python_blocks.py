"""Python on the pages runs as it stands there, page by page, with tiny models in the place of those from the hub."""

import pytest
import transformers

from tests.helpers.documents import PAGES, ROOT, blocks
from tests.helpers.models import tiny_config

KINDS = {
    "FacebookAI/roberta-large": "roberta",
    "meta-llama/Llama-3.2-1B": "llama",
}  # what stands for a model of the hub
CLASSES = ("AutoModelForSequenceClassification", "AutoModelForCausalLM")
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def made_up(cls, name, **kwargs):
    config = tiny_config(KINDS[str(name)])
    config.num_labels = kwargs.pop("num_labels", 2)
    transformers.set_seed(1)  # the same weights each time, as the hub's
    return cls.from_config(config, **kwargs)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in CLASSES:
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", classmethod(made_up))
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
