"""Finding and loading a backbone: a local folder, an installed package, or the model hub."""

import hashlib
import importlib.util
import json
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from meft_runner.backbones import FAMILIES, hub, task_head
from meft_runner.backbones.hub_errors import HubSource
from meft_runner.config import BackboneSettings, Head
from meft_runner.errors import UserError

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
_WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, UnpicklingError)


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
        _check_digest(backbone, folder / _WEIGHTS[0])
        return str(folder)
    source = hub_source(backbone)
    folder = hub.fetch(source, hub.commit_of(source), hub.DESCRIPTIONS)
    if not (folder / "config.json").is_file():
        raise UserError(hub.lacking(source, "config.json"))
    return str(folder)


def hub_source(backbone: BackboneSettings) -> HubSource:
    """Returns the repository that a backbone is read from where it is neither local nor packaged."""
    return HubSource("backbone", backbone.name, backbone.hub, backbone.revision)


def is_from_hub(backbone: BackboneSettings) -> bool:
    """Returns whether a backbone is read from the hub: the folder's name is then the commit."""
    return backbone.path is None and _package_folder(backbone) is None


def load_tokenizer(backbone: BackboneSettings, source: str, max_length: int) -> PreTrainedTokenizerBase:
    """Loads the tokenizer.

    Raises:
        UserError: it is missing or cannot be reached, or the model does not read inputs of `max_length` tokens.
    """
    if backbone.path is not None and not any((Path(source) / name).is_file() for name in _VOCABULARIES):
        raise UserError(
            f"backbone.path={source}: no tokenizer there ({' or '.join(_VOCABULARIES)}). "
            "Save the model's tokenizer into it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise _unloadable(backbone, source, "tokenizer", error) from error
    config = load_config(backbone, source)
    if getattr(config, "type_vocab_size", 0) < 2:  # a BERT tokenizer would number the second sentence 1
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = padding_id(config)
    family = FAMILIES[config.model_type]
    family.finish_tokenizer(tokenizer, config)
    positions = family.positions(config)
    if max_length > positions:
        raise UserError(f"task.max_length={max_length}: {backbone.name} reads at most {positions} tokens.")
    tokenizer.model_max_length = positions
    return tokenizer


def load_image_processor(backbone: BackboneSettings, source: str) -> BaseImageProcessor:
    """Loads what scales and normalises images; ViT's own where a local folder has none, at the model's size.

    Raises:
        UserError: it cannot be reached.
    """
    if backbone.path is not None and not (Path(source) / "preprocessor_config.json").is_file():
        size = load_config(backbone, source).image_size
        return ViTImageProcessorPil(size={"height": size, "width": size})
    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise _unloadable(backbone, source, "image processor", error) from error


def load_config(backbone: BackboneSettings, source: str) -> PreTrainedConfig:
    """Loads the model's configuration.

    Raises:
        UserError: it cannot be reached.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise _unloadable(backbone, source, "configuration", error) from error
    _check_model_type(backbone, source, config.model_type)
    return config


def load_model(backbone: BackboneSettings, source: str, head: Head, labels: int) -> PreTrainedModel:
    """Loads the weights under the head that a task needs, in float32.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.
        head: what the model is to do.
        labels: number of classes; 1 for regression; not used where the head classifies nothing.

    Raises:
        UserError: the weights cannot be reached, or are not this model's.
    """
    if is_from_hub(backbone):
        hub.fetch_weights(hub_source(backbone), Path(source))
    config = load_config(backbone, source)
    if head is not Head.image:
        config.use_cache = False  # keys and values are kept for generation only
        config.pad_token_id = padding_id(config)
    if head in (Head.classification, Head.image):
        config.num_labels = labels
        config.problem_type = "regression" if labels == 1 else "single_label_classification"
    try:
        model, report = (
            FAMILIES[config.model_type]
            .heads[head]
            .from_pretrained(
                source,
                config=config,
                attn_implementation=backbone.attention.name,
                dtype="float32",
                weights_only=True,  # of a .bin file, which older repositories have in place of safetensors
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # the head of another task; anything else is refused below
                output_loading_info=True,
            )
        )
    except _LOADING_ERRORS as error:
        raise _unloadable(backbone, source, "weights", error) from error
    new = (*task_head(model), f"{model.base_model_prefix}.pooler")
    wrong = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    wrong = [name for name in wrong if not name.startswith(new)]
    if wrong:
        raise UserError(
            f"backbone={backbone.name}: {len(wrong)} weights are missing in {source} or have another shape, "
            f"{wrong[0]} among them. Give the {config.model_type} model's own weights by backbone.path=DIR."
        )
    return model


def padding_id(config: PreTrainedConfig) -> int:
    """Returns the token that fills rows up; token 0 where a model has none, since padding is masked anyway."""
    token = getattr(config, "pad_token_id", None)
    return 0 if token is None else token


def _check_folder(backbone: BackboneSettings, folder: Path) -> None:
    key = f"backbone.path={folder}"
    if not folder.is_dir():
        raise UserError(f"{key}: no such folder. Give one with config.json, {_WEIGHTS[0]} and the tokenizer's files.")
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{key}: config.json is missing. Give a folder as save_pretrained writes it.")
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{key}: config.json is not a JSON object ({error}). Restore it.") from error
    _check_model_type(backbone, str(folder), model_type)
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise UserError(
            f"{key}: {_WEIGHTS[0]} is missing (or pytorch_model.bin). Save the model there with save_pretrained."
        )


def _check_model_type(backbone: BackboneSettings, source: str, model_type: str | None) -> None:
    if model_type not in backbone.model_types:
        key = "path" if backbone.path is not None else "hub"
        raise UserError(
            f"backbone.{key}={getattr(backbone, key)}: holds a {model_type} model, backbone={backbone.name} expects "
            f"{' or '.join(backbone.model_types)}. Choose the backbone that fits, or another folder."
        )


def _check_digest(backbone: BackboneSettings, weights: Path) -> None:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != backbone.sha256:
        raise UserError(
            f"backbone={backbone.name}: {weights} is not the published file (sha256 {digest[:12]}..., expected "
            f"{str(backbone.sha256)[:12]}...). Reinstall {backbone.package}, or set backbone.path=DIR."
        )


def _package_folder(backbone: BackboneSettings) -> Path | None:
    """Returns where an installed package has the model; a revision is of the hub, so that a package has none."""
    if backbone.package is None or backbone.revision is not None:
        return None
    spec = importlib.util.find_spec(backbone.package)
    return None if spec is None else Path(next(iter(spec.submodule_search_locations or ()))) / "model"


def _unloadable(backbone: BackboneSettings, source: str, what: str, error: Exception) -> UserError:
    if is_from_hub(backbone):
        return UserError(hub.unreadable(hub_source(backbone), f"its {what}", _first_line(error)))
    return UserError(f"backbone.path={source}: its {what} cannot be loaded ({_first_line(error)}).")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
