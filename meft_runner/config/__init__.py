"""The typed form of conf/: what a run is asked to do.

Nothing heavy is imported here: the command line reads this before it knows what to do. What conf/ computes
(`resolvers`) is known as soon as this is imported, also in the processes that a launcher starts.
"""

from meft_runner.config import resolvers
from meft_runner.config.commands import (
    Format,
    Kernel,
    MemorySettings,
    PredictSettings,
    ShareSettings,
    Sweep,
    TablesSettings,
)
from meft_runner.config.coupling import LEARNED
from meft_runner.config.identity import from_plain, identity, meaning, method_version, plain, result_settings
from meft_runner.config.language_tasks import (
    AnswerSettings,
    ChatSettings,
    InstructSettings,
    LanguageSettings,
    LmSettings,
    TooLong,
)
from meft_runner.config.method_base import MethodSettings
from meft_runner.config.methods import (
    METHODS,
    FullSettings,
    Ia3Settings,
    LoraSettings,
    MeftSettings,
    PeftReversal,
    PeftSettings,
    Reversal,
    ReversibleSettings,
    VeraSettings,
)
from meft_runner.config.run import (
    BESIDE_THE_RESULT,
    DEPTH_NAMES,
    Attention,
    BackboneSettings,
    Logger,
    Norm,
    Precision,
    Settings,
    Study,
    TrainingSettings,
    WeightForm,
    register,
)
from meft_runner.config.search import SPACE, SearchSettings, TrialSettings, with_values
from meft_runner.config.task_base import Head, Metric, SplitSettings, TaskSettings
from meft_runner.config.tasks import (
    TASKS,
    ChoiceSettings,
    DemoSettings,
    GlueSettings,
    ImageSettings,
    SquadSettings,
    TextSettings,
    kind_of,
    kind_with,
)

__all__ = [
    "BESIDE_THE_RESULT", "DEPTH_NAMES", "LEARNED", "METHODS", "SPACE", "TASKS", "AnswerSettings", "Attention",
    "BackboneSettings", "ChatSettings", "ChoiceSettings", "DemoSettings", "Format", "FullSettings", "GlueSettings",
    "Head", "Ia3Settings", "ImageSettings", "InstructSettings", "Kernel", "LanguageSettings", "LmSettings", "Logger",
    "LoraSettings", "MeftSettings", "MemorySettings", "MethodSettings", "Metric", "Norm", "PeftReversal",
    "PeftSettings", "Precision", "PredictSettings", "Reversal", "ReversibleSettings", "SearchSettings", "Settings",
    "ShareSettings", "SplitSettings", "SquadSettings", "Study", "Sweep", "TablesSettings", "TaskSettings",
    "TextSettings", "TooLong", "TrainingSettings", "TrialSettings", "VeraSettings", "WeightForm", "from_plain",
    "identity", "kind_of", "kind_with", "meaning", "method_version", "plain", "register", "resolvers",
    "result_settings", "with_values",
]  # fmt: skip
