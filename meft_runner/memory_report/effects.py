"""What would have no effect on the answer of `meft-memory`, and is refused."""

from collections.abc import Collection
from dataclasses import fields

from meft_runner.config import DEPTH_NAMES, METHODS, BackboneSettings, Kernel, MemorySettings, Settings, Sweep
from meft_runner.errors import UserError, nearest

_OWN = [each.name for each in fields(MemorySettings)]
_OF_BACKBONES = ("path", "repeat", "config")  # the rest says where weights come from, or has a key of its own here
_NOT_OF_MEMORY = (  # settings of methods on which no tensor's size depends
    "name", "learning_rate", "alpha", "init_constant", "init_noise", "mu", "merge", "adapter_factor", "zero_start",
    "grid_bits", "strict", "kernels", "start_from", "started_from",
)  # fmt: skip
_FIXED = ("variant", "decomposed")  # a name of a method stands for it
_ALONE = {  # an answer, what has no effect beside it, and why
    "fit": (("timeline", "sweep", "measure"), "answers with the largest batch and length alone"),
    "timeline": (("sweep", "measure", "format", "accumulating"), "draws one step and prints no table"),
}
_ONE_LINE = ("backbone", "batch", "length", "precision", "attention", "weights", "head")  # a curve has one of each


def check_of_a_run(key: str, override: str, asked: MemorySettings) -> None:
    """Makes sure that a setting of a run has an effect on the memory of what is asked.

    Args:
        key: such as method.chunks.
        override: as it was typed.
        asked: everything else.

    Raises:
        UserError: it has none, or there is no such setting.
    """
    group, _, name = key.partition(".")
    if group == "method" and name:
        _check_of_methods(name, override, asked.method)
    elif group == "backbone" and name:
        _check_of_backbones(name, override, asked.backbone)
    elif group in {each.name for each in fields(Settings)}:
        hint = nearest(name, _OWN) if name else ""
        raise UserError(f"{override}: is a setting of meft-run alone, {hint}expected {', '.join(_OWN)}.")
    else:
        raise UserError(f"{key}: no such setting, {nearest(key, _OWN)}expected {', '.join(_OWN)}.")


def _check_of_methods(name: str, override: str, methods: list[str]) -> None:
    having = [method for method, schema in METHODS.items() if name in {each.name for each in fields(schema)}]
    if name == "checkpointing":
        raise UserError(f"{override}: is asked for with checkpointing=[false,true,offload,every_4].")
    if name == "budget":
        raise UserError(f"{override}: plans a run of meft-run. Take method.stored_layers=N here, or fit=8GiB.")
    if name in _NOT_OF_MEMORY:
        raise UserError(f"{override}: has no effect on memory. Leave it out.")
    if not having:
        known = sorted(
            {each.name for method in methods for each in fields(METHODS[method])}
            - {*_NOT_OF_MEMORY, *_FIXED, "checkpointing", "budget"}
        )
        raise UserError(f"method.{name}: no such setting, {nearest(name, known)}expected {', '.join(known)}.")
    if not set(having) & set(methods):
        raise UserError(f"{override}: method={','.join(methods)} has no such setting ({', '.join(having)} have).")


def _check_of_backbones(name: str, override: str, backbones: list[str]) -> None:
    setting = name.partition(".")[0]
    if setting == "attention":
        raise UserError(f"{override}: is asked for with attention=materialised or attention=flash.")
    if setting == "weights":
        raise UserError(f"{override}: is asked for with weights=[fp32,bf16,nf4,int8].")
    if setting in {each.name for each in fields(BackboneSettings)} - set(_OF_BACKBONES):
        raise UserError(f"{override}: has no effect on memory. Leave it out.")
    if setting not in _OF_BACKBONES or (setting == "config") != ("." in name):
        known = ["path", "repeat", "config.NAME"]
        raise UserError(f"backbone.{name}: no such setting, {nearest(name, known)}expected {', '.join(known)}.")
    if setting == "path" and len(backbones) > 1:
        raise UserError(
            f"{override}: is one model's folder, but backbone={','.join(backbones)} are several. Ask for one."
        )


def check_answers(asked: MemorySettings, given: Collection[str], of_a_run: Collection[str]) -> None:
    """Makes sure that what is asked goes together.

    Args:
        asked: everything.
        given: the keys of meft-memory's own settings that were typed and ask for something.
        of_a_run: the keys of other settings that were typed.

    Raises:
        UserError: one setting leaves another without effect.
    """
    for answer, (others, reason) in _ALONE.items():
        for other in others:
            if answer in given and other in given:
                raise UserError(f"{answer} and {other}: {answer} {reason}. Leave out one of them.")
    if "output_dir" in given and not {"sweep", "timeline"} & set(given):
        raise UserError(
            f"output_dir={asked.output_dir}: receives figures alone. Add sweep= or timeline=true, or leave it out."
        )
    if asked.measure and Kernel.flash in asked.attention:
        raise UserError("attention=flash: is predicted for a GPU. Take measure=false, or attention=materialised.")
    if asked.checkpointing is not None and not any(hasattr(METHODS[name], "checkpointing") for name in asked.method):
        having = [name for name, schema in METHODS.items() if hasattr(schema, "checkpointing")]
        raise UserError(
            f"checkpointing: method={','.join(asked.method)} has no such setting ({', '.join(having)} have)."
        )
    if "backbone.path" in of_a_run and any(key.startswith("backbone.config.") for key in of_a_run):
        raise UserError("backbone.config: has no effect with backbone.path, whose config.json has the sizes.")
    if asked.sweep is not None:
        _check_sweep(asked.sweep, asked, given, of_a_run)


def _check_sweep(sweep: Sweep, asked: MemorySettings, given: Collection[str], of_a_run: Collection[str]) -> None:
    if sweep.name in given:
        raise UserError(f"sweep={sweep.name} and {sweep.name}: a sweep has values of its own. Leave out one of them.")
    depths = ("backbone.repeat", *(f"backbone.config.{name}" for name in DEPTH_NAMES))
    for key in of_a_run:
        if sweep is Sweep.depth and key in depths:
            raise UserError(f"sweep=depth and {key}: a sweep has depths of its own. Leave out one of them.")
    for key in _ONE_LINE:
        values = getattr(asked, key)
        if values is not None and len(values) > 1:
            raise UserError(f"sweep={sweep.name}: draws a line a method, for one {key}. Ask for them one by one.")
