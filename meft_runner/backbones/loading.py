"""Finding and loading a backbone: a local folder, an installed package, or the model hub."""

import hashlib
import importlib.util
import json
from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from meft_runner.errors import UserError
from meft_runner.settings import BackboneSettings

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def find_source(backbone: BackboneSettings) -> str:
    """Returns the folder or the hub repository that a backbone is loaded from.

    Raises:
        UserError: the folder lacks something or holds another architecture, or a packaged weight file
            is not the published one.
    """
    if backbone.path is not None:
        _check_folder(backbone, Path(backbone.path))
        return backbone.path
    if backbone.package is not None and (spec := importlib.util.find_spec(backbone.package)):
        folder = Path(next(iter(spec.submodule_search_locations or ()))) / "model"
        _check_digest(backbone, folder / _WEIGHTS[0])
        return str(folder)
    return backbone.hub


def load_tokenizer(backbone: BackboneSettings, source: str, max_length: int) -> PreTrainedTokenizerBase:
    """Loads the tokenizer.

    Raises:
        UserError: it cannot be reached, or the model does not read inputs of `max_length` tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unreachable(backbone, "tokenizer", error) from error
    if config.type_vocab_size < 2:  # a BERT tokenizer beside a RoBERTa-type model would number the second sentence 1
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    positions = _readable_positions(config)
    if max_length > positions:
        raise UserError(f"task.max_length={max_length}: {backbone.name} reads at most {positions} tokens.")
    return tokenizer


def load_classifier(backbone: BackboneSettings, source: str, labels: int) -> PreTrainedModel:
    """Loads the weights under a new head for sequence classification, in float32.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.
        labels: number of classes; 1 for regression.

    Raises:
        UserError: the weights cannot be reached.
    """
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=labels,
            problem_type="regression" if labels == 1 else "single_label_classification",
            attn_implementation=backbone.attention.name,
            dtype="float32",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreachable(backbone, "weights", error) from error
    missing = [name for name in report["missing_keys"] if not name.startswith("classifier") and "pooler" not in name]
    if missing:
        raise UserError(
            f"backbone={backbone.name}: {len(missing)} weights are missing in {source}, {missing[0]} among them. "
            f"Give the {backbone.model_type} model's own weights by backbone.path=DIR."
        )
    return model


def _readable_positions(config: PreTrainedConfig) -> int:
    # RoBERTa's positions start behind the padding token's.
    offset = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    return config.max_position_embeddings - offset


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
    if model_type != backbone.model_type:
        raise UserError(
            f"{key}: holds a {model_type} model, backbone={backbone.name} expects {backbone.model_type}. "
            "Choose the backbone that fits, or another folder."
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise UserError(
            f"{key}: {_WEIGHTS[0]} is missing. Only safetensors are loaded; save the model with save_pretrained first."
        )
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(
            f"{key}: no tokenizer there ({' or '.join(_VOCABULARIES)}). Save the model's tokenizer into it."
        )


def _check_digest(backbone: BackboneSettings, weights: Path) -> None:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != backbone.sha256:
        raise UserError(
            f"backbone={backbone.name}: {weights} is not the published file (sha256 {digest[:12]}..., expected "
            f"{str(backbone.sha256)[:12]}...). Reinstall {backbone.package}, or set backbone.path=DIR."
        )


def _unreachable(backbone: BackboneSettings, what: str, error: Exception) -> UserError:
    if backbone.path is not None:
        return UserError(f"backbone.path={backbone.path}: its {what} cannot be loaded ({_first_line(error)}).")
    return UserError(
        f"backbone={backbone.name}: the {what} of {backbone.hub} are neither cached nor reachable "
        f"({type(error).__name__}; no network?). Set backbone.path=DIR to a local folder of that model."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
