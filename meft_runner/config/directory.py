"""Where conf/ is, and what its files say before Hydra composes anything."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def config_directory() -> str:
    """Returns the folder of conf/: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    return str(next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()))


def names_of(group: str) -> list[str]:
    """Returns the names that can be chosen in a group of conf/; those that begin with _ are building blocks."""
    return sorted(file.stem for file in Path(config_directory(), group).glob("[!_]*.yaml"))


def read_group(group: str) -> dict[str, dict[str, Any]]:
    """Returns the files of a group that can be chosen, by name, as Hydra would merge them.

    `kind` is what stands in the name of the schema that they begin with: glue for `_glue_schema`.
    """
    return {name: read_choice(group, name) for name in names_of(group)}


def read_choice(group: str, name: str) -> dict[str, Any]:
    """Returns one file of a group, as Hydra would merge it with those that it begins with."""
    file = Path(config_directory(), group, f"{name}.yaml")
    if not file.is_file():
        return {"kind": name.removeprefix("_").removesuffix("_schema")}
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    merged: dict[str, Any] = {}
    for below in content.pop("defaults"):
        if below != "_self_":
            merged |= read_choice(group, below)
    return merged | content
