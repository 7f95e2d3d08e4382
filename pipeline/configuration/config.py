"""The configuration of a run: one frozen object, made of a task, a recipe and a few choices."""

import argparse
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from bert_tfx.components.data_gate.checks import CHECKS, parse_limits
from bert_tfx.components.data_gate.checks import Limits as DataLimits
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.serving_gate.limits import ServingLimits
from bert_tfx.modeling.checkpoints.files import find_checkpoint
from bert_tfx.modeling.distillation.settings import fits_layers
from bert_tfx.modeling.encoders.sizes import SIZES as SIZES_OF
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.modeling.training.recipes import RECIPES, TASK_RECIPES, Recipe
from bert_tfx.pipeline.configuration.beam_engine import BeamEngine
from bert_tfx.pipeline.configuration.kinds import check_options
from bert_tfx.pipeline.configuration.pretrained import checkpoint_folder
from bert_tfx.pipeline.configuration.resources import Resources, parse_resources
from bert_tfx.pipeline.configuration.variants import (
    LAST,
    CompressStep,
    DistillPlan,
    parse_compress,
    parse_distill,
)
from bert_tfx.pipeline.metadata.store import METADATA_FILE, Address, check_name, parse_url
from bert_tfx.pipeline.process.notification import Hooks
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.files import read_json
from bert_tfx.schema.options import kinds_of, option, options_of
from bert_tfx.schema.paths import absolute
from bert_tfx.schema.spans import format_span, is_daily
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

MODELS = tuple(SIZES_OF)
SIZES = tuple(SIZES_OF["bert"])

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


def _model_name(text: str) -> str:
    """Understands the spelling of the command's forerunner, too."""
    name = {"distillbert": "distilbert"}.get(text, text)
    if name not in MODELS:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(MODELS)}")
    return name


def _limits_of(check: str) -> str:
    """Says what a check's default limits are."""
    limits = ",".join(f"{limit.value:g}:{limit.severity}" for limit in CHECKS[check].limits)
    return f"{check}={limits}"


def _file(text: str, group: str) -> Any:
    """Declares an option that names a file."""
    return option(text, None, metavar="FILE", group=group, is_path=True)


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
        beam: The engine of its Beam jobs.
        data_limits: What the rows must keep to, as `parse_limits` returns it.
        resources: What single nodes are given to run with, by node, as `parse_resources` returns
            it.
        distill: How the model learns from a larger one, as `parse_distill` returns it, or None.
        compress: What makes the trained model smaller, as `parse_compress` returns it.
        max_rejects: Rows that may be left out because they do not fit the task.
        eval_fraction: Share of the rows that is held out where the task has no eval file.
        span: Of files that arrive over time the newest span to read, a number or a day; None is the
            newest there is.
        window: So many spans are read, up to that one.
        warm_start: Whether training goes on from the last model that was good enough, of other
            rows than these, in place of the checkpoint or of new weights.
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
        parallel: So many nodes may run at a time on this machine.
        report_text: Whether reports may hold texts of rows.
        metadata: URL of the metadata store, as `parse_url` returns it, or None for a SQLite file
            in `output_dir`.
        metadata_password_file: File of the password of MySQL's user.
        metadata_tls_ca: File of the authorities that the store's certificate is checked by, PEM.
        metadata_tls_cert: File of the own certificate, PEM, for a store that wants to know who
            asks.
        metadata_tls_key: File of its private key, PEM.
        lineage: The name under which the run's records are kept, or None for `pipeline_name`'s.
        hooks: Who is told how the run has ended.

    Raises:
        InputError: If a value is out of range, a file is missing or the vocabulary is malformed.
    """

    task: Task
    recipe: Recipe
    promotion: PromotionLimits
    serving: ServingLimits
    beam: BeamEngine
    data_dir: str = option(
        "folder of the task's TSV files", name="data", metavar="DIR", group="place", is_path=True
    )
    output_dir: str = option(
        "folder for all that the run makes",
        name="output",
        metavar="DIR",
        group="place",
        is_path=True,
    )
    data_limits: DataLimits = option(
        "other limits than " + "; ".join(map(_limits_of, CHECKS)),
        name="limits",
        metavar="NAME=X[:warn|:stop],...",
        group="data",
        kind=object,
    )
    resources: Mapping[str, Resources] = option(
        "what single nodes are given, by node: cpus, memory_gb and gpus of their container, "
        'workers of their Beam pipeline, such as {"Transform": {"workers": 4}}',
        default_factory=dict,
        metavar="FILE|JSON",
        group="resources",
        kind=object,
    )
    distill: DistillPlan | None = option(
        "a larger model is trained first and teaches this one, such as "
        '{"student_layers": 2, "max_accuracy_drop": 0.02}',
        None,
        metavar="FILE|JSON",
        group="smaller",
        kind=object,
    )
    compress: tuple[CompressStep, ...] = option(
        "what is taken out of the trained model, step by step, such as "
        '[{"prune_vocab": true}, {"store": "float16"}]; a step that loses too much is left out',
        (),
        metavar="FILE|JSON",
        group="smaller",
        kind=object,
    )
    vocab_file: str | None = option(
        "WordPiece vocabulary (default: the checkpoint's vocab.txt)",
        None,
        name="vocab",
        metavar="FILE",
        group="model",
        is_path=True,
    )
    lowercase: bool = option(
        "whether the vocabulary is uncased (default: what the checkpoint says, or yes)",
        True,
        group="model",
        either=True,
    )
    model: str = option(
        f"architecture: {' or '.join(MODELS)} (default: the checkpoint's, or bert)",
        "bert",
        names=("model_name",),
        metavar="NAME",
        parse=_model_name,
        group="model",
    )
    size: str = option(
        "size of new weights (default: mini; of the sample: tiny)",
        "mini",
        choices=SIZES,
        group="model",
    )
    pretrained: str | None = option(
        "checkpoint to start from: a folder or archive (.zip, .tar.gz) in Google's or Hugging "
        "Face's format, a classifier.keras, or the name of a fetched preset",
        None,
        names=("pretrained_path",),
        metavar="PATH",
        group="model",
        is_path=True,
    )
    max_rejects: int = option(
        "rows that may be left out because they do not fit (default: 0)", 0, group="rows"
    )
    eval_fraction: float = option(
        "share of rows held out without an eval file (default: 0.1)", 0.1, group="rows"
    )
    span: str | None = option(
        "of files that arrive over time, whose patterns hold {SPAN} or {YYYY}-{MM}-{DD}: the "
        "newest to read, a number or a day (default: the newest there is)",
        None,
        metavar="SPAN",
        group="spans",
    )
    window: int = option("spans to read, up to that one (default: 1)", 1, group="spans")
    warm_start: bool = option(
        "training goes on from the last model that was good enough, of other rows",
        False,
        group="start",
    )
    slice_by: str = option(
        "extra columns to slice the evaluation by", "", metavar="A,B", group="gates"
    )
    push_server: str | None = option(
        "gRPC server of OUTPUT/serving: a version that it does not serve is taken back",
        None,
        metavar="HOST:PORT",
        group="push",
    )
    push_model_name: str = option(
        "the model there (default: model)", DEFAULT_MODEL, metavar="NAME", group="push"
    )
    push_timeout: float = option("seconds it has to load it (default: 120)", 120.0, group="push")
    push_tls_ca: str | None = _file(
        "the authorities that its certificate is checked by, PEM; encrypts", "push"
    )
    push_tls_cert: str | None = _file("own certificate, PEM; encrypts", "push")
    push_tls_key: str | None = _file("its private key, PEM", "push")
    push_token_file: str | None = _file("the token to show", "push")
    parallel: int = option(
        "nodes of `run` at a time, as they and the memory allow (default: 1)", 1, group="engine"
    )
    report_text: bool = option(
        "reports may hold texts of rows, such as the worst mistakes", False, group="report"
    )
    metadata: str | None = option(
        "metadata store: sqlite:PATH, mysql://USER@HOST:PORT/DATABASE, grpc://HOST:PORT or "
        "grpcs://HOST:PORT (default: OUTPUT/metadata.sqlite)",
        None,
        metavar="URL",
        group="records",
    )
    metadata_password_file: str | None = _file("the password of MySQL's user", "records")
    metadata_tls_ca: str | None = _file(
        "the authorities that its certificate is checked by, PEM", "records"
    )
    metadata_tls_cert: str | None = _file("own certificate, PEM", "records")
    metadata_tls_key: str | None = _file("its private key, PEM", "records")
    lineage: str | None = option(
        "the pipeline's name in the store; a run is compared with earlier ones of its name "
        "(default: the task's; in a store that --metadata names the output folder's)",
        None,
        metavar="NAME",
        group="records",
    )
    hooks: Hooks = dataclasses.field(default_factory=Hooks)

    def __post_init__(self) -> None:
        """Checks the values that no other part checks."""
        for name, choices in (("model", MODELS), ("size", SIZES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} must be one of {', '.join(choices)}. Received: {getattr(self, name)!r}"
                )
        if not 0 < self.eval_fraction < 1:
            raise InputError(f"eval_fraction must be in (0, 1). Received: {self.eval_fraction}")
        for name, value in (("window", self.window), ("parallel", self.parallel)):
            if value < 1:
                raise InputError(f"{name} must be at least 1. Received: {value}")
        if self.push_timeout <= 0:
            raise InputError(f"push_timeout must be positive. Received: {self.push_timeout}")
        if self.push_server is not None:
            # gRPC is imported where there is a server to ask.
            from bert_tfx.components.model_pusher.verification import Server

            Server(self.push_server, self.push_model_name, **self.push_files).check()
        elif self.push_files:
            option = next(iter(self.push_files)).replace("_", "-")
            raise InputError(f"--push-{option} is for the server that --push-server names")
        if self.lineage is not None:
            check_name(self.lineage)
        self.metadata_address.check()
        for node, resources in self.resources.items():
            if resources.workers is not None and not self.beam.takes_workers:
                raise InputError(
                    f"resources, {node}: workers cannot be chosen with --beam-runner "
                    f"{self.beam.beam_runner}, which has one"
                )
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
        if self.distill is not None:
            self._check_teacher(self.distill)

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

    def _check_teacher(self, plan: DistillPlan) -> None:
        """Checks what can be said of the teacher before it is trained."""
        if self.warm_start:
            raise InputError(
                "warm_start and distill: a student starts from its teacher; give one or the other"
            )
        teacher = self.teacher
        if teacher is None:
            return
        settings, theirs = plan.settings, _shape(teacher)
        if settings.student_layers is None:
            if all(
                getattr(teacher, name) == getattr(self, name)
                for name in ("model", "size", "pretrained")
            ):
                raise InputError(
                    "distill: the teacher would be like its student: give student_layers, or say "
                    "under teacher in what it differs (model, size, pretrained)"
                )
            ours = _shape(self)
        else:
            if not fits_layers(self.model, teacher.model):
                raise InputError(
                    f"distill: the teacher is {teacher.model}, its layers cannot be copied into "
                    f"{self.model}: leave student_layers out, for new weights, or set model to "
                    f"{teacher.model}"
                )
            ours = {**theirs, "num_layers": settings.student_layers}
        try:
            settings.check_shapes(ours, theirs)
        except InputError as error:
            raise InputError(f"distill: {error}") from error

    @property
    def teacher(self) -> "Config | None":
        """What the teacher is trained by, where this run trains one (raises InputError)."""
        if self.distill is None or self.distill.teacher == LAST:
            return None
        other = dict(self.distill.teacher_model)
        if "size" in other:
            other["pretrained"] = None
        return dataclasses.replace(
            self,
            recipe=dataclasses.replace(self.recipe, **self.distill.teacher_recipe),
            distill=None,
            compress=(),
            **other,
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
        return resolve_layout(self.task, self.data_dir, span=self.span, window=self.window)

    @property
    def spans(self) -> tuple[str, ...]:
        """The spans that are read, oldest first; empty where the files do not arrive in spans."""
        return next(
            (
                tuple(format_span(s.number, daily=is_daily(files.pattern)) for s in files.spans)
                for files in self.layout.splits.values()
                if files.spans
            ),
            (),
        )

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
        this one is of single texts, cannot answer the same questions. In a store that others may
        use, too, each output folder has a lineage of its own, unless `lineage` says otherwise.
        """
        if self.lineage is not None:
            return self.lineage
        of_place = [] if self.metadata is None else [self.output_dir]
        answers = json.dumps([self.task.labels, self.task.is_pair, *of_place])
        return f"bert-tfx-{self.task.name}-{hashlib.sha256(answers.encode()).hexdigest()[:8]}"

    @property
    def artifacts_dir(self) -> str:
        """Where the components' outputs lie."""
        return os.path.join(self.output_dir, "artifacts")

    @property
    def metadata_file(self) -> str:
        """The SQLite file of ML Metadata, where no other store is named."""
        return os.path.join(self.output_dir, METADATA_FILE)

    @property
    def metadata_address(self) -> Address:
        """The metadata store."""
        return Address(
            self.metadata or f"sqlite:{self.metadata_file}",
            self.metadata_password_file,
            self.metadata_tls_ca,
            self.metadata_tls_cert,
            self.metadata_tls_key,
        )

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


def _shape(config: Config) -> Mapping[str, Any]:
    """Returns what is known of an encoder before it is there."""
    if config.pretrained is not None:
        return find_checkpoint(config.pretrained).config
    return SIZES_OF[config.model][config.size]


# What a configuration is made of; their fields are options like its own.
_PARTS: Mapping[str, Any] = {
    "recipe": Recipe,
    "promotion": PromotionLimits,
    "serving": ServingLimits,
    "beam": BeamEngine,
    "hooks": Hooks,
}
# Text, or from a file what it holds.
_PARSED: Mapping[str, Callable[..., Any]] = {
    "limits": parse_limits,
    "resources": parse_resources,
    "distill": parse_distill,
    "compress": parse_compress,
}
_OWN_KINDS = kinds_of(Config)
_OWN = {name: field.name for name, (field, _) in options_of(Config).items() if name not in _PARSED}
_PART_OPTIONS = {name: kinds_of(part) for name, part in _PARTS.items()}

# What a configuration file and the command line may say, with the kind of value.
OPTIONS: Mapping[str, Any] = {
    **{"task": object, "recipe": str, "pretrained_sha256": str},
    **{name: _OWN_KINDS[name] for name in options_of(Config)},
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
            `limits` (what `parse_limits` reads), `resources`, `distill` and `compress` (what
            `parse_resources`, `parse_distill` and `parse_compress` read), the other fields of
            `Config`, and those of its recipe, limits and Beam engine.

    Returns:
        The configuration.

    Raises:
        InputError: If an option is unknown, missing, of another kind or out of range.
    """
    check_options(options, OPTIONS)
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
    parsed = {name: parse(options.get(name, "")) for name, parse in _PARSED.items()}
    parsed["data_limits"] = parsed.pop("limits")
    parsed["distill"], of_teacher = _of_teacher(parsed["distill"])
    fields = {
        **_TASK_OPTIONS.get(published, {}),
        **of_teacher,
        **_of_checkpoint(options),
        **{
            field: options[name]
            for name, field in _OWN.items()
            if name in options and name != "pretrained"
        },
    }
    for values, described in ((fields, Config), (parts["beam"], BeamEngine)):
        for field, told in options_of(described).values():
            if told.is_path and values.get(field.name):
                # A component may run with another working directory; lineage should say where.
                values[field.name] = absolute(values[field.name])
    if "metadata" in fields:
        fields["metadata"] = parse_url(fields["metadata"])
    config = Config(
        task=task,
        recipe=dataclasses.replace(
            _recipe(options.get("recipe", TASK_RECIPES.get(published))), **parts["recipe"]
        ),
        promotion=PromotionLimits(**(reach | parts["promotion"])),
        serving=ServingLimits(**parts["serving"]),
        beam=BeamEngine(**parts["beam"]),
        hooks=Hooks(**parts["hooks"]),
        **parsed,
        **fields,
    )
    if config.vocab_file and not config.lowercase:
        _warn_if_uncased(config.vocab_file)
    if config.span is None and config.task.has_spans and (spans := config.spans):
        # A span that arrives while the run goes on is for the next run.
        config = dataclasses.replace(config, span=spans[-1])
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


def _of_teacher(plan: DistillPlan | None) -> tuple[DistillPlan | None, dict[str, Any]]:
    """Finds the checkpoint that a teacher starts from.

    Returns:
        The plan with what the checkpoint says of itself, and how the student, too, has to read.
    """
    if plan is None or "pretrained" not in plan.teacher_model:
        return plan, {}
    found = _of_checkpoint(plan.teacher_model)
    reads = ("vocab_file", "lowercase")
    student: dict[str, Any] = {name: found.pop(name) for name in reads if name in found}
    if plan.settings.student_layers is not None and "model" in found:
        student["model"] = found["model"]
    teacher = {**plan.teacher_model, **plan.teacher_recipe, **found}
    return dataclasses.replace(plan, teacher=teacher), student


def _recipe(name: str | None) -> Recipe:
    if name is None:
        return Recipe()
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]


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
    options = read_json(path)
    if not isinstance(options, dict):
        raise InputError(f"{path}: must hold a JSON object of options")
    check_options(options, OPTIONS, f"{path}: ")
    return options
