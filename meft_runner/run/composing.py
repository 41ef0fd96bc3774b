"""What Hydra and OmegaConf must know before a configuration is composed or read.

The resolver is registered by the import alone, so that the processes that a launcher starts have it too.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from meft_runner.config import METHODS, Norm, Settings, register, resolvers
from meft_runner.config.checks import parse
from meft_runner.config.directory import config_directory, read_choice
from meft_runner.methods.variants import VARIANTS

resolvers.register_variants({name: asdict(variant) for name, variant in VARIANTS.items()})


def compose_config(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """Composes conf/ with what was typed, key=value; Hydra's own part comes under `hydra` where that is asked for.

    Raises:
        HydraException: a name or a setting is not known.
    """
    with initialize_config_dir(config_directory(), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)


def composed(overrides: Sequence[str]) -> Settings:
    """Returns the checked settings of what would be typed after `meft-run`, key=value.

    Raises:
        UserError: a value does not fit.
    """
    register()
    return parse(compose_config(overrides))


def method_defaults(method: str, norm: str | None) -> dict[str, Any]:
    """Returns the settings that a method has where none are given, as its file of conf/ says.

    Args:
        method: what is typed as `method=`.
        norm: where the model's layers have their LayerNorm; None where that is not known, and what follows from it
            is None then.
    """
    content = {key: value for key, value in read_choice("method", method).items() if key != "kind"}
    if norm is None:
        content |= {key: None for key, value in content.items() if "${backbone.norm}" in str(value)}
    typed = OmegaConf.merge(OmegaConf.structured(METHODS[method]), content)
    whole = OmegaConf.create({"method": typed, "backbone": {"norm": None if norm is None else Norm[norm]}})
    defaults = OmegaConf.to_container(whole.method, resolve=True, enum_to_str=True)
    assert isinstance(defaults, dict)
    return {str(key): value for key, value in defaults.items()}
