"""What Hydra and OmegaConf must know before a configuration is composed or read.

The resolver is registered by the import alone, so that the processes that a launcher starts have it too.
"""

from collections.abc import Sequence
from dataclasses import asdict

from hydra import compose, initialize_config_dir

from meft_runner.config import Settings, register, resolvers
from meft_runner.config.checks import parse
from meft_runner.config.directory import config_directory
from meft_runner.methods.variants import VARIANTS

resolvers.register_variants({name: asdict(variant) for name, variant in VARIANTS.items()})


def composed(overrides: Sequence[str]) -> Settings:
    """Returns the checked settings of what would be typed after `meft-run`, key=value.

    Raises:
        UserError: a value does not fit.
    """
    register()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        return parse(compose("config", overrides=list(overrides)))
