"""One file an architecture, or two that differ in a name. Every `Family` that stands in one of them is known."""

from importlib import import_module
from pkgutil import iter_modules

from meft_runner.backbones.family import Family


def found_families() -> dict[str, Family]:
    """Returns the families of all files here, by the name that a model's config.json has for them."""
    modules = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    families = [value for module in modules for value in vars(module).values() if isinstance(value, Family)]
    return {family.model_type: family for family in families}
