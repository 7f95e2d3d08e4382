"""The configuration of a run: one frozen object, made of a task, a recipe and a few choices."""

import dataclasses
import hashlib
import json
import logging
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

from bert_tfx.components.data_gate.checks import Limits as DataLimits
from bert_tfx.components.data_gate.checks import parse_limits
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.serving_gate.limits import ServingLimits
from bert_tfx.modeling.checkpoint_files import find_checkpoint
from bert_tfx.modeling.recipes import RECIPES, TASK_RECIPES, Recipe
from bert_tfx.modeling.vocab_file import read_vocabulary
from bert_tfx.pipeline.pretrained import checkpoint_folder
from bert_tfx.pipeline.resources import Resources, parse_resources
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import (
    EVAL,
    LABEL,
    TASKS,
    TEXT_A,
    TEXT_B,
    TRAIN,
    Layout,
    Task,
    own_task,
    resolve_layout,
)
from bert_tfx.serving import DEFAULT_MODEL

logger = logging.getLogger(__name__)

MODELS = ("bert", "distilbert", "albert")
SIZES = ("tiny", "mini", "small", "medium", "base")
BEAM_RUNNERS = ("in_memory", "multi_processing")

# The accuracy below which a model is not blessed: well under the published results, and far above
# what guessing reaches. A task that is not named here must beat guessing by a tenth.
_MIN_ACCURACY: Mapping[str, float] = {
    "chnsenticorp": 0.85,
    "lcqmc": 0.75,
    "sst2": 0.80,
    "sample": 0.90,
}
_MARGIN_OVER_GUESSING = 0.1
# By how much the metric may lie below that of the last blessed model.
_MAX_REGRESSION = 0.01
_GLOB = frozenset("*?[]\\")
# What else differs from the defaults. The sample is learned in a minute.
_TASK_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "sample": {"size": "tiny", "slice_by": "language"}
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes:
        task: What the rows mean.
        data_dir: The folder that holds the task's files.
        output_dir: Where the run's artifacts, metadata and pushed models go.
        lowercase: Whether the vocabulary is uncased.
        model: A name of `MODELS`.
        size: A name of `SIZES`, for new weights.
        pretrained: The checkpoint to start from instead, as `find_checkpoint` takes it, or None.
        recipe: The hyper-parameters.
        promotion: What the model must reach to be promoted.
        vocab_file: The WordPiece vocabulary, one token a line, or None where it is to be learned
            from the rows to train on.
        serving: What it must keep to on a server to be pushed.
        data_limits: What the rows must keep to, as `parse_limits` returns it.
        resources: What single nodes are given to run with, by node, as `parse_resources` returns
            it.
        max_rejects: Rows that may be left out because they do not fit the task.
        eval_fraction: Share of the rows that is held out where the task has no eval file.
        slice_by: Extra columns of the eval rows by which the evaluation is sliced, separated by
            commas.
        push_server: gRPC address of a server that watches the pushed versions and is asked for the
            new one, or None.
        push_model_name: The model's name there.
        push_timeout: Seconds that the server has to load a version.
        push_tls_ca: File of the authorities that the server's certificate is checked by, PEM.
        push_tls_cert: File of the own certificate, PEM, for a server that wants to know who asks.
        push_tls_key: File of its private key, PEM.
        push_token_file: File of the token to show the server.
        report_text: Whether reports may hold texts of rows.
        beam_runner: `in_memory`, or `multi_processing` with a worker for each core.

    Raises:
        InputError: If a value is out of range, a file is missing or the vocabulary is malformed.
    """

    task: Task
    data_dir: str
    output_dir: str
    recipe: Recipe
    promotion: PromotionLimits
    serving: ServingLimits
    data_limits: DataLimits
    resources: Mapping[str, Resources] = dataclasses.field(default_factory=dict)
    vocab_file: str | None = None
    lowercase: bool = True
    model: str = "bert"
    size: str = "mini"
    pretrained: str | None = None
    max_rejects: int = 0
    eval_fraction: float = 0.1
    slice_by: str = ""
    push_server: str | None = None
    push_model_name: str = DEFAULT_MODEL
    push_timeout: float = 120.0
    push_tls_ca: str | None = None
    push_tls_cert: str | None = None
    push_tls_key: str | None = None
    push_token_file: str | None = None
    report_text: bool = False
    beam_runner: str = "in_memory"

    def __post_init__(self) -> None:
        """Checks the values that no other part checks."""
        for name, choices in (("model", MODELS), ("size", SIZES), ("beam_runner", BEAM_RUNNERS)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} must be one of {', '.join(choices)}. Received: {getattr(self, name)!r}"
                )
        if not 0 < self.eval_fraction < 1:
            raise InputError(f"eval_fraction must be in (0, 1). Received: {self.eval_fraction}")
        if self.push_timeout <= 0:
            raise InputError(f"push_timeout must be positive. Received: {self.push_timeout}")
        if self.push_server is not None:
            # gRPC is imported where there is a server to ask.
            from bert_tfx.components.model_pusher.verification import Server

            Server(self.push_server, self.push_model_name, **self.push_files).check()
        elif self.push_files:
            option = next(iter(self.push_files)).replace("_", "-")
            raise InputError(f"--push-{option} is for the server that --push-server names")
        if self.max_rejects < 0:
            raise InputError(f"max_rejects must not be negative. Received: {self.max_rejects}")
        if special := _GLOB & set(self.output_dir):
            raise InputError(
                f"{self.output_dir}: {' '.join(sorted(special))} must not stand in the path of the "
                "output folder, because TFX would take it for a pattern; --output names another"
            )
        if self.vocab_file is not None and not os.path.isfile(self.vocab_file):
            raise InputError(
                f"{self.vocab_file}: no such file; --vocab names the vocab.txt of the checkpoint"
            )
        if self.vocab_file is not None:
            read_vocabulary(self.vocab_file)
        if self.pretrained is not None:
            self._check_pretrained(self.pretrained)

    def _check_pretrained(self, path: str) -> None:
        """Checks what can be said of the checkpoint without reading its weights."""
        checkpoint = find_checkpoint(path)
        if self.vocab_file is None:
            raise InputError(
                f"{path}: there is no vocab.txt beside the weights: --vocab names the vocabulary "
                "that they were trained with"
            )
        if checkpoint.architecture not in (None, self.model):
            raise InputError(
                f"{path}: is a {checkpoint.architecture} checkpoint, but --model says {self.model}"
            )
        vocabulary = read_vocabulary(self.vocab_file)
        if checkpoint.vocab_file and read_vocabulary(checkpoint.vocab_file) != vocabulary:
            raise InputError(
                f"{self.vocab_file}: is another vocabulary than {checkpoint.vocab_file}, so its "
                "ids mean other tokens than the checkpoint's: leave --vocab out"
            )
        tokens = len(vocabulary)
        vocab_size = checkpoint.config.get("vocab_size", tokens)
        # More embeddings than tokens are padding, in steps that suit a device; fewer are an error.
        if tokens > vocab_size:
            raise InputError(
                f"{self.vocab_file}: holds {tokens:,} tokens, but {path} has embeddings for "
                f"{vocab_size:,} only: name the vocab.txt that came with the checkpoint"
            )
        positions = checkpoint.config.get("max_length", self.recipe.max_length)
        if self.recipe.max_length > positions:
            raise InputError(
                f"max_length is {self.recipe.max_length}, but {path} has positions for {positions} "
                "tokens only"
            )

    @property
    def push_files(self) -> dict[str, str]:
        """The files that say who asks the server, by their names in `verification.Server`."""
        names = ("tls_ca", "tls_cert", "tls_key", "token_file")
        files = {name: getattr(self, f"push_{name}") for name in names}
        return {name: path for name, path in files.items() if path is not None}

    @property
    def layout(self) -> Layout:
        """The layout in which the task's files lie in `data_dir` (raises InputError)."""
        return resolve_layout(self.task, self.data_dir)

    @property
    def slice_columns(self) -> tuple[str, ...]:
        """The columns that `slice_by` names (raises InputError where the eval rows lack one)."""
        layout = self.layout
        columns = layout.splits[TRAIN if layout.hash_split else EVAL].columns
        extra = [name for name in columns if name not in (TEXT_A, TEXT_B, LABEL)]
        names = tuple(filter(None, self.slice_by.split(",")))
        for name in names:
            if name not in extra:
                raise InputError(
                    f"slice_by: {name!r} is no extra column of the eval rows; there "
                    + (f"are {', '.join(extra)}" if extra else "is none")
                )
        return names

    @property
    def pipeline_name(self) -> str:
        """The name under which the run's lineage is kept.

        A model is compared with those of its own lineage. One of other labels, or of pairs where
        this one is of single texts, cannot answer the same questions.
        """
        answers = json.dumps([self.task.labels, self.task.is_pair])
        return f"bert-tfx-{self.task.name}-{hashlib.sha256(answers.encode()).hexdigest()[:8]}"

    @property
    def artifacts_dir(self) -> str:
        """Where the components' outputs lie."""
        return os.path.join(self.output_dir, "artifacts")

    @property
    def metadata_file(self) -> str:
        """The SQLite file of ML Metadata."""
        return os.path.join(self.output_dir, "metadata.sqlite")

    @property
    def serving_dir(self) -> str:
        """The folder that a model server watches."""
        return os.path.join(self.output_dir, "serving")

    @property
    def rejects_dir(self) -> str:
        """Where rejected rows are kept."""
        return os.path.join(self.output_dir, "rejects")

    @property
    def state_dir(self) -> str:
        """Where an unfinished training waits for the next run."""
        return os.path.join(self.output_dir, "training_state")

    @property
    def schema_dir(self) -> str:
        """Where the task's schema is written."""
        return os.path.join(self.output_dir, "schema")

    @property
    def beam_pipeline_args(self) -> list[str]:
        """Flags that name the Beam engine; without them Beam takes what it happens to find."""
        return beam_arguments(self.beam_runner)


def beam_arguments(runner: str) -> list[str]:
    """Returns the flags for a name of `BEAM_RUNNERS`."""
    return [
        # `DirectRunner` would try another runner first, and download it where it can.
        "--runner=FnApiRunner",
        f"--direct_running_mode={runner}",
        f"--direct_num_workers={1 if runner == 'in_memory' else 0}",
        # Workers run in this environment. Without a package or an image named, TFX would build
        # a source distribution of itself for them at the start of each component.
        "--sdk_container_image=unused",
    ]


def _kinds(dataclass: type) -> dict[str, Any]:
    """Returns the type of each field, without None."""
    return {
        name: next(t for t in typing.get_args(kind) if t is not types.NoneType)
        if isinstance(kind, types.UnionType)
        else kind
        for name, kind in typing.get_type_hints(dataclass).items()
    }


_PATHS = (
    *("data_dir", "output_dir", "vocab_file", "pretrained"),
    *("push_tls_ca", "push_tls_cert", "push_tls_key", "push_token_file"),
)
_PATH_OPTIONS = {"data": "data_dir", "output": "output_dir", "vocab": "vocab_file"}
# What a configuration is made of; their fields are options like its own.
_PARTS: Mapping[str, Any] = {
    "recipe": Recipe,
    "promotion": PromotionLimits,
    "serving": ServingLimits,
}
_PART_OPTIONS = {name: _kinds(part) for name, part in _PARTS.items()}
_CONFIG_OPTIONS = {
    name: kind
    for name, kind in _kinds(Config).items()
    if name not in ("task", "data_limits", "resources", *_PARTS, *_PATH_OPTIONS.values())
} | dict.fromkeys(_PATH_OPTIONS, str)

# What a configuration file and the command line may say, with the kind of value.
OPTIONS: Mapping[str, Any] = {
    "task": object,
    "recipe": str,
    "pretrained_sha256": str,
    # Text, or from a file an object: what `parse_limits` reads.
    "limits": object,
    # Text, or from a file an object: what `parse_resources` reads.
    "resources": object,
    **_CONFIG_OPTIONS,
    **{name: kind for part in _PART_OPTIONS.values() for name, kind in part.items()},
}
# The forerunner's names.
_TASK_ALIASES = {"sst-2": "sst2"}
_REQUIRED = {
    "task": "what to learn",
    "data": "the folder of the task's TSV files",
    "output": "the folder for all that the run makes",
}


def make_config(options: Mapping[str, Any]) -> Config:
    """Makes the configuration of a run.

    Args:
        options: A value for each name in `OPTIONS` that shall not have its default: `task` (a
            task, the name of one, or the fields of the user's own, see `own_task`), `data`,
            `output`, `vocab`, `recipe` (a name of `RECIPES`), `pretrained_sha256` (of an archive),
            `limits` (what `parse_limits` reads), `resources` (what `parse_resources` reads), the
            other fields of `Config`, and those of its recipe and limits.

    Returns:
        The configuration.

    Raises:
        InputError: If an option is unknown, missing, of another kind or out of range.
    """
    _check(options)
    for name, what in _REQUIRED.items():
        if name not in options:
            raise InputError(f"option {name!r} is missing: --{name} names {what}")

    task = task_of(options["task"])
    # A user's own task may bear a published one's name, but not take over what was tuned for it.
    published = task.name if TASKS.get(task.name) == task else ""
    parts = {
        part: {name: options[name] for name in names if name in options}
        for part, names in _PART_OPTIONS.items()
    }
    guessing = 1 / len(task.labels)
    reach = {
        "min_accuracy": _MIN_ACCURACY.get(published, guessing + _MARGIN_OVER_GUESSING),
        "max_regression": _MAX_REGRESSION,
    }
    fields = {
        **_TASK_OPTIONS.get(published, {}),
        **_of_checkpoint(options),
        **{
            _PATH_OPTIONS.get(name, name): options[name]
            for name in _CONFIG_OPTIONS
            if name in options and name != "pretrained"
        },
    }
    for name in _PATHS:
        if fields.get(name):
            # A component may run with another working directory, and lineage should say where.
            fields[name] = os.path.abspath(os.path.expanduser(fields[name]))
    config = Config(
        task=task,
        recipe=dataclasses.replace(
            _recipe(options.get("recipe", TASK_RECIPES.get(published))), **parts["recipe"]
        ),
        promotion=PromotionLimits(**(reach | parts["promotion"])),
        serving=ServingLimits(**parts["serving"]),
        data_limits=parse_limits(options.get("limits", "")),
        resources=parse_resources(options.get("resources", "")),
        **fields,
    )
    if config.vocab_file and not config.lowercase:
        _warn_if_uncased(config.vocab_file)
    return config


def _warn_if_uncased(vocab_file: str) -> None:
    """Warns where nothing is lower-cased, and the vocabulary knows no upper-case letter."""
    if not any(token.isupper() for token in read_vocabulary(vocab_file) if token[:1] != "["):
        logger.warning(
            "%s: has no token in upper case, so it is uncased, and each word with an upper-case "
            "letter will be unknown; --lowercase mends that",
            vocab_file,
        )


def _of_checkpoint(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that the checkpoint to start from says, if there is one."""
    if "pretrained" not in options:
        if "pretrained_sha256" in options:
            raise InputError("pretrained_sha256: there is no --pretrained to check")
        return {}
    if "size" in options:
        raise InputError("--size and --pretrained: a checkpoint has a size; give one or the other")
    folder = checkpoint_folder(options["pretrained"], sha256=options.get("pretrained_sha256"))
    found = find_checkpoint(folder)
    fields = {
        "model": found.architecture,
        "vocab_file": found.vocab_file,
        "lowercase": found.lowercase,
    }
    return {"pretrained": folder, **{k: v for k, v in fields.items() if v is not None}}


def _recipe(name: str | None) -> Recipe:
    if name is None:
        return Recipe()
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]


def _check(options: Mapping[str, Any], where: str = "") -> None:
    """Refuses unknown names and values of another kind; messages begin with `where`."""
    for name, value in options.items():
        if name not in OPTIONS:
            known = ", ".join(sorted(OPTIONS))
            raise InputError(f"{where}unknown option {name!r}; known are {known}")
        kind = OPTIONS[name]
        fits = isinstance(value, (kind, int)) if kind is float else isinstance(value, kind)
        if not fits or (isinstance(value, bool) and kind not in (bool, object)):
            raise InputError(f"{where}option {name!r} must be {kind.__name__}. Received: {value!r}")
        if value == "" or (kind is float and not math.isfinite(value)):
            raise InputError(f"{where}option {name!r} must not be {value!r}")


def task_of(value: object) -> Task:
    """Returns the task that an option names or describes.

    Args:
        value: A task, the name of one, or the fields of the user's own (`own_task`).

    Raises:
        InputError: If there is no such task.
    """
    if isinstance(value, Task):
        return value
    if isinstance(value, Mapping):
        return own_task(value, where="task")
    if isinstance(value, str):
        value = _TASK_ALIASES.get(value, value)
    if not isinstance(value, str) or value not in TASKS:
        raise InputError(
            f"unknown task {value!r}; known are {', '.join(TASKS)}; your own TSV files become a "
            "task by --task-file or by --columns and --labels (see bert-tfx run --help)"
        )
    return TASKS[value]


def load_options(path: str) -> dict[str, Any]:
    """Reads a configuration file: a JSON object of options.

    Raises:
        InputError: If it cannot be read, is no JSON object, or holds an option that is unknown or
            of another kind.
    """
    try:
        with open(path, encoding="utf-8") as file:
            options = json.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: must hold a JSON object of options")
    _check(options, f"{path}: ")
    return options
