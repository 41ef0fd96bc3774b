"""What conf/backbone declares of a model, held against the families."""

import pytest

from meft_runner.backbones import FAMILIES
from meft_runner.config import Head
from meft_runner.config.directory import read_group
from tests.helpers.models import MODELS, family_of, model_type_of, tiny_config

BACKBONES = read_group("backbone")


@pytest.mark.parametrize("name", BACKBONES)
def test_conf_declares_the_heads_that_the_family_has(name):
    declared = BACKBONES[name]
    assert declared["name"] == name
    assert declared["model_types"]
    for model_type in declared["model_types"]:
        assert model_type in FAMILIES, f"no file of meft_runner/backbones/families holds a Family of {model_type}"
        assert {Head[head] for head in declared["heads"]} == set(FAMILIES[model_type].heads)


def test_every_family_can_be_chosen_and_is_tested():
    chosen = {model_type for declared in BACKBONES.values() for model_type in declared["model_types"]}
    assert chosen == set(FAMILIES) == {model_type_of(kind) for kind in MODELS}


@pytest.mark.parametrize("kind", MODELS)
def test_a_family_knows_its_models_settings(kind):
    family, config = family_of(kind), tiny_config(kind)
    assert isinstance(getattr(config, family.activation), str)
    assert 0 <= getattr(config, family.dropout) < 1
    assert all(getattr(config, name) == 0 for name in family.layer_drop)
    assert family.positions(config) > 0
