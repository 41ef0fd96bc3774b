"""Where a backbone comes from: a local folder, an installed package or the hub; and what tells its files apart."""

import hashlib
import json
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from meft_runner.backbones import FAMILIES, hub
from meft_runner.backbones.hub_errors import HubSource
from meft_runner.config import BackboneSettings
from meft_runner.errors import UserError
from meft_runner.files import digest as digest_of

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "tokenizer.model")
# As transformers chooses: safetensors before PyTorch's own form, one file before several.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
# What a config.json has of a mixture of experts, and of windows that slide in some of the layers.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_MIXED_MASKS = ("sliding_window_pattern", "global_attn_every_n_layers")
_BESIDE_WEIGHTS = ("config.json", *VOCABULARIES, "merges.txt", "preprocessor_config.json")


def find_source(backbone: BackboneSettings) -> str:
    """Returns the folder that a backbone is loaded from; of the hub's repositories all but the weights is downloaded.

    Raises:
        UserError: the folder lacks something or holds another architecture, a packaged weight file
            is not the published one, or the hub's files cannot be had.
    """
    if backbone.path is not None:
        if backbone.revision is not None:
            raise UserError(
                f"backbone.revision={backbone.revision}: is of the hub, not of backbone.path. Remove one of the two."
            )
        _check_folder(backbone, Path(backbone.path))
        return backbone.path
    if (folder := _package_folder(backbone)) is not None:
        _check_package(backbone, folder)
        return str(folder)
    source = _hub_source(backbone)
    fetched = hub.fetch(source, hub.commit_of(source), hub.DESCRIPTIONS)
    if not (fetched / "config.json").is_file():
        raise UserError(hub.lacking(source, "config.json"))
    return str(fetched)


def fetch_weights(backbone: BackboneSettings, source: str) -> None:
    """Downloads the weights of a model of the hub; others have theirs in the folder.

    Raises:
        UserError: they cannot be had.
    """
    if _is_from_hub(backbone):
        hub.fetch_weights(_hub_source(backbone), Path(source))


def weights_of(backbone: BackboneSettings, source: str) -> dict[str, str | None]:
    """Returns what tells the weights of a run from others: where they are from, with the commit or a digest.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.

    Returns:
        source, revision (of the hub) and sha256: of a package's weight file, or of all files that a local model is
        loaded from, as a list of names with digests.
    """
    if backbone.path is not None:
        return {"source": backbone.path, "revision": None, "sha256": _digest_of_folder(Path(source))}
    if _is_from_hub(backbone):
        return {"source": backbone.hub, "revision": Path(source).name, "sha256": None}
    return {"source": backbone.package, "revision": None, "sha256": backbone.sha256}


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold a model's weights, whether or not they are there.

    Raises:
        ValueError: the index of several files is not one.
    """
    name = next((name for name in WEIGHTS if (folder / name).is_file()), WEIGHTS[0])
    if not name.endswith(".index.json"):
        return [folder / name]
    index = json.loads((folder / name).read_text(encoding="utf-8"))
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards or not all(_is_plain_name(shard) for shard in shards.values()):
        raise ValueError(f"{name} does not map weights to files beside it")
    return [folder / shard for shard in sorted(set(shards.values()))]


def refused(backbone: BackboneSettings, source: str, complaint: str, fix: str | None = None) -> UserError:
    """Returns the error of a backbone whose files do not fit, in one line.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.
        complaint: what is wrong.
        fix: what to do; None for what helps with any files of that source.
    """
    if backbone.path is not None:
        place, usual = f"backbone.path={backbone.path}", "Save the model there once more, or choose another folder."
    elif _is_from_hub(backbone):
        hub_source = _hub_source(backbone)
        place = f"backbone={backbone.name}: {backbone.hub}"
        usual = f"Remove {hub_source.cached_in} to make it anew, or {hub_source.instead}."
    else:
        place, usual = f"backbone={backbone.name}: {source}", f"Reinstall {backbone.package}, or set backbone.path=DIR."
    return UserError(f"{place}: {complaint}. {fix or usual}")


def check_model_type(backbone: BackboneSettings, source: str, config: Mapping[str, Any]) -> None:
    """Makes sure that a folder holds the architecture that was chosen.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.
        config: the content of config.json.

    Raises:
        UserError: it holds another, or one that no family knows.
    """
    model_type = config.get("model_type")
    if model_type in backbone.model_types:
        return
    expected = " or ".join(backbone.model_types)
    complaint = f"holds a {model_type} model, backbone={backbone.name} expects {expected}"
    if isinstance(model_type, str) and model_type not in FAMILIES:
        served = ", ".join(sorted(FAMILIES))
        raise refused(
            backbone, source, f"{complaint}{_why_not(config)}", f"Models of these types are served: {served}."
        )
    raise refused(backbone, source, complaint, "Choose the backbone that fits, or another folder.")


def _why_not(config: Mapping[str, Any]) -> str:
    """Returns what keeps a model of another family from being made reversible, as far as its config.json tells."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    if any(part.get(name) for part in parts for name in _EXPERTS):
        return "; a mixture of experts cannot be made reversible here"
    if any(part.get(name) for part in parts for name in _MIXED_MASKS) or any(map(_mixes_layers, parts)):
        return "; layers that read different masks cannot be made reversible here"
    return ""


def _mixes_layers(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types")
    return isinstance(kinds, list) and len(set(map(str, kinds))) > 1


def _check_folder(backbone: BackboneSettings, folder: Path) -> None:
    if not folder.is_dir():
        lacking = f"Give one with config.json, {WEIGHTS[0]} and the tokenizer's files."
        raise refused(backbone, str(folder), "no such folder", lacking)
    config = folder / "config.json"
    if not config.is_file():
        raise refused(backbone, str(folder), "config.json is missing", "Give a folder as save_pretrained writes it.")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refused(backbone, str(folder), f"config.json is not a JSON object ({error})") from error
    if not isinstance(content, dict):
        raise refused(backbone, str(folder), f"config.json is not a JSON object but a {type(content).__name__}")
    check_model_type(backbone, str(folder), content)
    if not any((folder / name).is_file() for name in WEIGHTS):
        complaint = f"{WEIGHTS[0]} is missing (or pytorch_model.bin)"
        raise refused(backbone, str(folder), complaint, "Save the model there with save_pretrained.")


def _check_package(backbone: BackboneSettings, folder: Path) -> None:
    weights = folder / WEIGHTS[0]
    digest = digest_of(weights) if weights.is_file() else "none"
    if digest != backbone.sha256:
        published = f"sha256 {digest[:12]}..., expected {str(backbone.sha256)[:12]}..."
        raise refused(backbone, str(weights), f"is not the published file ({published})")


def _package_folder(backbone: BackboneSettings) -> Path | None:
    """Returns where an installed package has the model; a revision is of the hub, so that a package has none.

    Nothing is imported: a name with a dot would import what stands before it.
    """
    if backbone.package is None or backbone.revision is not None or not backbone.package.isidentifier():
        return None
    spec = PathFinder.find_spec(backbone.package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) / "model" if places else None


def _hub_source(backbone: BackboneSettings) -> HubSource:
    return HubSource("backbone", backbone.name, backbone.hub, backbone.revision)


def _is_from_hub(backbone: BackboneSettings) -> bool:
    """Returns whether a backbone is read from the hub: the folder's name is then the commit."""
    return backbone.path is None and _package_folder(backbone) is None


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _digest_of_folder(folder: Path) -> str:
    files = [*weight_files(folder), *(folder / name for name in _BESIDE_WEIGHTS)]
    lines = [f"{digest_of(file)}  {file.name}\n" for file in files if file.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
