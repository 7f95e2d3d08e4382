"""`bert-tfx compress`: a trained model made smaller."""

import argparse
import dataclasses
import logging
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_tfx.modeling.character_ranges import CHARACTER_RANGES, check_pruning
from bert_tfx.modeling.checkpoint_files import VOCAB_FILE
from bert_tfx.pipeline.commands import options
from bert_tfx.pipeline.commands.model_data import data_folder, task_to_ask
from bert_tfx.pipeline.console import Console, logged, quieten
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, TRAIN, resolve_layout

if TYPE_CHECKING:
    from bert_tfx.modeling.trained_model import TrainedModel
    from bert_tfx.schema.labelled_texts import LabelledTexts

logger = logging.getLogger(__name__)

_STORAGES = ("float16", "bfloat16")
_ALTERNATE = "alternate"

# Requests whose time is taken, of one row and of `_BATCH` rows. The median counts.
_SINGLE_REQUESTS, _BATCH_REQUESTS, _BATCH = 50, 10, 32


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "compress",
        help="make a trained model smaller and faster",
        description="Takes layers, attention heads, neurons or tokens out of a trained model, or "
        "halves its weights' storage, and shows what that costs and brings. The result is a "
        "trained model like the first: train --pretrained DIR lets it recover, test, export and "
        "convert take it.",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        *("--model", "--save-dir", "--model-path"),
        dest="model_path",
        required=True,
        metavar="DIR",
        help="the trained model: its folder, or the classifier.keras in it",
    )
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's logs, too")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the smaller model goes"
    )
    rows = parser.add_argument_group("the rows: train's choose what goes, eval's show what it cost")
    options.add_task(rows)
    rows.add_argument(
        "--max-rejects",
        type=int,
        default=0,
        metavar="N",
        help="rows of a split that may be left out as they do not fit (default: 0)",
    )
    what = parser.add_argument_group("what to do, in this order")
    what.add_argument(
        "--layers",
        metavar="0,2,4",
        help=f"layers to keep, numbered from 0, or {_ALTERNATE}: every second one",
    )
    what.add_argument(
        "--heads", type=float, metavar="X", help="share of each layer's attention heads that goes"
    )
    what.add_argument(
        "--ffn",
        type=float,
        metavar="X",
        help="share of each layer's feed-forward neurons that goes",
    )
    what.add_argument(
        "--importance-rows",
        type=int,
        default=1024,
        metavar="N",
        help="rows by which heads and neurons are chosen, at most (default: 1024)",
    )
    what.add_argument(
        "--prune-vocab", action="store_true", help="keep only the tokens that the texts need"
    )
    what.add_argument(
        "--corpus",
        metavar="FILE",
        help="texts that choose the tokens, one a line, instead of the train rows",
    )
    what.add_argument(
        "--min-count", type=int, metavar="N", help="how often a token must be there (default: 1)"
    )
    what.add_argument(
        "--characters",
        metavar="A,B",
        help=f"single characters that stay in any case: {', '.join(CHARACTER_RANGES)} (default: "
        "ascii)",
    )
    what.add_argument(
        "--store",
        choices=_STORAGES,
        help="what the export holds its matrices in; it computes in float32",
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What was asked for, as far as it can be told without the model."""

    layers: list[int] | str | None
    heads: float | None
    ffn: float | None
    importance_rows: int
    prune_vocab: bool
    corpus: str | None
    min_count: int
    characters: list[str]
    store: str | None


def run(arguments: argparse.Namespace) -> int:
    """Compresses; returns the exit code."""
    plan = _plan(arguments)
    output = pathlib.Path(arguments.output).expanduser().absolute()
    if output.exists():
        raise InputError(f"{output}: exists already; --output names a new folder")
    data_dir = data_folder(arguments)
    with logged(Console(sys.stdout, indent=0)), tempfile.TemporaryDirectory() as scratch:
        quieten(arguments.verbose)

        from bert_tfx.modeling.trained_model import load_trained_model
        from bert_tfx.schema.labelled_texts import read_split

        before = load_trained_model(os.path.expanduser(arguments.model_path))
        task = task_to_ask(arguments, before)
        layout = resolve_layout(task, data_dir)
        _check_shares(plan, before)
        after = _without_layers(plan, before)
        splits = {
            split: read_split(
                task,
                layout,
                split,
                data_dir,
                eval_fraction=before.eval_fraction,
                max_rejects=arguments.max_rejects,
            )
            for split in (TRAIN, EVAL)
        }
        after = _without_parts(plan, after, splits[TRAIN])
        after = _without_tokens(plan, after, splits, os.path.join(scratch, VOCAB_FILE))
        after = _stored(plan, after)
        measured = _measure({"before": before, "after": after}, splits[EVAL], scratch)
        done = {
            "of": os.path.abspath(os.path.expanduser(arguments.model_path)),
            "asked": {k: v for k, v in dataclasses.asdict(plan).items() if v},
            "measured": measured,
        }
        earlier = before.training.get("compressions", [])
        training = {**before.training, "compressions": [*earlier, done]}
        _save(dataclasses.replace(after, training=training), output)
    print(_table(task.name, len(splits[EVAL]), measured))
    print(f"model: {output}")
    return 0


def _plan(arguments: argparse.Namespace) -> _Plan:
    """Checks what can be checked before the model is there."""
    asked = (arguments.layers, arguments.heads, arguments.ffn, arguments.store)
    if not any(asked) and not arguments.prune_vocab:
        raise InputError(
            "nothing to do: name at least one of --layers, --heads, --ffn, --prune-vocab, --store"
        )
    for name in ("heads", "ffn"):
        share = getattr(arguments, name)
        if share is not None and not 0 <= share < 1:
            raise InputError(
                f"--{name} is the share that goes, at least 0 and below 1. Received: {share:g}"
            )
    layers: list[int] | str | None = arguments.layers
    if layers is not None and layers != _ALTERNATE:
        try:
            layers = [int(number) for number in arguments.layers.split(",")]
        except ValueError:
            raise InputError(
                f"--layers must be numbers with commas between, or {_ALTERNATE}. "
                f"Received: {arguments.layers}"
            ) from None
    if arguments.importance_rows < 1:
        raise InputError(
            f"--importance-rows must be at least 1. Received: {arguments.importance_rows}"
        )
    for name in ("corpus", "min_count", "characters"):
        if getattr(arguments, name) is not None and not arguments.prune_vocab:
            raise InputError(f"--{name} says how to choose tokens: it goes with --prune-vocab")
    corpus = None
    if arguments.corpus is not None:
        corpus = os.path.abspath(os.path.expanduser(arguments.corpus))
        if not os.path.isfile(corpus):
            raise InputError(f"{corpus}: no such file; --corpus names a file of texts")
    characters = "ascii" if arguments.characters is None else arguments.characters
    plan = _Plan(
        layers=layers,
        heads=arguments.heads or None,
        ffn=arguments.ffn or None,
        importance_rows=arguments.importance_rows,
        prune_vocab=arguments.prune_vocab,
        corpus=corpus,
        min_count=1 if arguments.min_count is None else arguments.min_count,
        characters=[name for name in characters.split(",") if name],
        store=arguments.store,
    )
    check_pruning(plan.min_count, plan.characters)
    return plan


def _check_shares(plan: _Plan, model: "TrainedModel") -> None:
    from bert_tfx.modeling.structured_pruning import removed

    encoder = model.classifier.encoder
    if plan.heads:
        removed(encoder.num_heads, plan.heads, "heads")
    if plan.ffn:
        removed(encoder.intermediate_dim, plan.ffn, "neurons")


def _without_layers(plan: _Plan, model: "TrainedModel") -> "TrainedModel":
    from bert_tfx.modeling.structured_pruning import keep_layers

    if plan.layers is None:
        return model
    count = model.classifier.encoder.num_layers
    layers = range(0, count, 2) if isinstance(plan.layers, str) else plan.layers
    classifier = keep_layers(model.classifier, layers)
    logger.info("layers: %d of %d stay: %s", len(layers), count, ",".join(map(str, layers)))
    return dataclasses.replace(model, classifier=classifier)


def _without_parts(plan: _Plan, model: "TrainedModel", read: "LabelledTexts") -> "TrainedModel":
    import numpy as np

    from bert_tfx.modeling.structured_pruning import importance, prune_heads, prune_neurons
    from bert_tfx.modeling.text_rows import rows_of_texts

    if not (plan.heads or plan.ffn):
        return model
    number = min(len(read), plan.importance_rows)
    chosen = np.sort(np.random.default_rng(0).permutation(len(read))[:number])
    texts = {name: [column[row] for row in chosen] for name, column in read.texts.items()}
    labels = [(read.labels or [])[row] for row in chosen]
    logger.info("importance: what the loss of %s train rows depends on", f"{number:,}")
    classifier = model.classifier
    scores = importance(classifier, rows_of_texts(model.transform(), texts, labels))
    if plan.heads:
        before = classifier.encoder.num_heads
        classifier = prune_heads(classifier, scores.heads, plan.heads)
        logger.info("heads: %d of %d stay in each layer", classifier.encoder.num_heads, before)
    if plan.ffn:
        before = classifier.encoder.intermediate_dim
        classifier = prune_neurons(classifier, scores.neurons, plan.ffn)
        after = classifier.encoder.intermediate_dim
        logger.info("neurons: %d of %d stay in each layer", after, before)
    return dataclasses.replace(model, classifier=classifier)


def _without_tokens(
    plan: _Plan, model: "TrainedModel", splits: Mapping[str, "LabelledTexts"], vocab_file: str
) -> "TrainedModel":
    from bert_tfx.modeling.vocabulary_pruning import prune_vocabulary, touched_share

    if not plan.prune_vocab:
        return model
    columns = splits[TRAIN].texts.values()
    texts = (text for column in columns for text in column)
    pruned, report = prune_vocabulary(
        model,
        _lines(plan.corpus) if plan.corpus else texts,
        vocab_file=vocab_file,
        min_count=plan.min_count,
        characters=plan.characters,
    )
    logger.info(
        "vocabulary: %s of %s tokens stay, %.1f of %.1f MB; %.2f%% of the eval rows have other "
        "tokens now",
        f"{report.tokens_after:,}",
        f"{report.tokens_before:,}",
        report.bytes_after / 1e6,
        report.bytes_before / 1e6,
        100 * touched_share(model, pruned, splits[EVAL].texts),
    )
    return pruned


def _lines(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}, line {number}: not UTF-8: {error.reason}") from error
                yield line
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _stored(plan: _Plan, model: "TrainedModel") -> "TrainedModel":
    from bert_tfx.modeling.weight_storage import rounded

    if plan.store is None:
        return model
    logger.info("weights: matrices rounded to %s", plan.store)
    classifier = rounded(model.classifier, plan.store)
    return dataclasses.replace(model, classifier=classifier, storage=plan.store)


def _measure(
    models: Mapping[str, "TrainedModel"], read: "LabelledTexts", scratch: str
) -> dict[str, dict[str, float]]:
    """Measures models by the same rows: what they answer, and what their exports take."""
    import numpy as np

    from bert_tfx.modeling.export import save_for_serving
    from bert_tfx.modeling.fine_tuning import predict_rows
    from bert_tfx.modeling.text_rows import rows_of_texts
    from bert_tfx.modeling.train_step import predictor

    labels = read.labels or []
    answers: dict[str, Any] = {}
    measured: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        logger.info("measuring: %s rows, %s", f"{len(read):,}", name)
        rows = rows_of_texts(model.transform(), read.texts, labels)
        answers[name] = predict_rows(predictor(model.classifier), rows).argmax(axis=1)
        folder = os.path.join(scratch, name)
        save_for_serving(model, folder)
        files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
        measured[name] = {
            "parameters": model.classifier.count_params(),
            "megabytes": sum(path.stat().st_size for path in files) / 1e6,
            "accuracy": float((answers[name] == np.asarray(labels)).mean()),
            "agreement": float((answers[name] == answers["before"]).mean()),
        }
    for name, times in _times({name: os.path.join(scratch, name) for name in models}, read).items():
        measured[name] |= times
    return measured


def _times(folders: Mapping[str, str], read: "LabelledTexts") -> dict[str, dict[str, float]]:
    """Times exports in turns, so that what else the machine does meets all of them alike."""
    import tensorflow as tf

    from bert_tfx.modeling.export import SERVE_TEXT

    signatures: dict[str, Callable[..., Any]] = {}
    keep = []
    for name, folder in folders.items():
        loaded = tf.saved_model.load(folder)
        keep.append(loaded)
        signatures[name] = loaded.signatures[SERVE_TEXT]

    def seconds(rows: int, requests: int) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in signatures}
        # Two more before, which also make the graphs ready.
        for request in range(-2, requests):
            chosen = [(max(request, 0) * rows + i) % len(read) for i in range(rows)]
            texts = {
                name: tf.constant([column[row] for row in chosen])
                for name, column in read.texts.items()
            }
            for name, ask in signatures.items():
                start = time.perf_counter()
                ask(**texts)["probabilities"].numpy()
                if request >= 0:
                    taken[name].append(time.perf_counter() - start)
        return {name: statistics.median(values) for name, values in taken.items()}

    single, batch = seconds(1, _SINGLE_REQUESTS), seconds(_BATCH, _BATCH_REQUESTS)
    return {
        name: {"single_ms": 1000 * single[name], "rows_per_second": _BATCH / batch[name]}
        for name in signatures
    }


def _save(model: "TrainedModel", output: pathlib.Path) -> None:
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        model.save(os.fspath(partial))
        partial.rename(output)
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written: {error.strerror}; --output names a folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _table(task: str, rows: int, measured: Mapping[str, Mapping[str, float]]) -> str:
    before, after = measured["before"], measured["after"]
    lines: Sequence[tuple[str, str, str]] = (
        ("", "before", "after"),
        *(
            (text, form.format(before[key]), form.format(after[key]))
            for text, key, form in (
                ("parameters", "parameters", "{:,.0f}"),
                ("exported, MB", "megabytes", "{:,.1f}"),
                (f"accuracy ({task}, {rows:,} eval rows)", "accuracy", "{:.4f}"),
                ("the same answer as before", "agreement", "{:.2%}"),
                ("1 row, ms", "single_ms", "{:,.1f}"),
                (f"batches of {_BATCH}, rows/s", "rows_per_second", "{:,.0f}"),
            )
        ),
    )
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n" + "\n".join(
        f"{text:{widths[0]}}  {one:>{widths[1]}}  {other:>{widths[2]}}"
        for text, one, other in lines
    )
