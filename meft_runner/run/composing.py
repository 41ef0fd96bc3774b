"""What Hydra and OmegaConf must know before a configuration is composed or read.

The resolver is registered by the import alone, so that the processes that a launcher starts have it too.
"""

from dataclasses import asdict

from meft_runner import config
from meft_runner.config import resolvers
from meft_runner.methods.variants import VARIANTS

resolvers.register_variants({name: asdict(variant) for name, variant in VARIANTS.items()})


def register() -> None:
    """Makes the schemas of conf/ known to Hydra."""
    config.register()
