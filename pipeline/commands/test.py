"""`bert-tfx test`: how good a trained model is on a split."""

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from bert_tfx.pipeline.commands.model_data import data_folder, task_to_ask
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.process.console import Console, logged, quieten
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, SPLITS, TEST, Layout, Task, resolve_layout

if TYPE_CHECKING:
    import numpy as np

    from bert_tfx.schema.labelled_texts import LabelledTexts


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "test",
        help="measure a trained model on a split",
        description="Answers the rows of a split with a trained model and shows accuracy, each "
        "label's precision, recall and F1, the confusion matrix and the rows answered in a second.",
    )
    parser.set_defaults(command=run)
    options.add_trained_model(parser)
    options.add_task(parser.add_argument_group("the rows"))
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="default: test where its files are there with labels, else eval",
    )
    parser.add_argument(
        "--max-rejects",
        type=int,
        default=0,
        metavar="N",
        help="rows of the split that may be left out as they do not fit (default: 0)",
    )
    parser.add_argument(
        "--write-test-result",
        metavar="FILE",
        help="TSV file for each row's prediction, label, probability of the prediction, and text",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measures; returns the exit code."""
    data_dir = data_folder(arguments)
    target = os.path.expanduser(arguments.write_test_result or "")
    if target and not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise InputError(f"{target}: its folder does not exist; --write_test_result names a file")
    if os.path.isdir(target):
        raise InputError(f"{target}: is a folder; --write_test_result names a file")
    with logged(Console(sys.stdout, indent=0)):
        quieten(arguments.verbose)

        from bert_tfx.modeling.export.trained_model import load_trained_model
        from bert_tfx.modeling.text.text_rows import rows_of_texts
        from bert_tfx.modeling.training.fine_tuning import predict_rows
        from bert_tfx.modeling.training.train_step import predictor
        from bert_tfx.schema.labelled_texts import read_split

        model = load_trained_model(os.path.expanduser(arguments.model_path))
        task = task_to_ask(arguments, model)
        layout = resolve_layout(task, data_dir)
        split = arguments.split or _default_split(layout)
        if split not in layout.output_splits:
            raise InputError(
                f"{data_dir}: there are no {split} files; there are those of "
                f"{', '.join(layout.output_splits)}"
            )
        read = read_split(
            task,
            layout,
            split,
            data_dir,
            eval_fraction=model.eval_fraction,
            max_rejects=arguments.max_rejects,
        )
        transform = model.transform()
        predict = predictor(model.classifier)
        # The first answer also traces the graphs; it would spoil the rate.
        first = {name: texts[:1] for name, texts in read.texts.items()}
        predict_rows(predict, rows_of_texts(transform, first, [0]))
        start = time.monotonic()
        rows = rows_of_texts(transform, read.texts, read.labels or [0] * len(read))
        logits = predict_rows(predict, rows)
        rate = len(read) / (time.monotonic() - start)

        print(f"{task.name}, {split}: {len(read):,} rows, {rate:,.0f} rows/s, text to answer")
        if read.labels is None:
            print("The files have no labels, so there is nothing to compare the answers with.")
        else:
            print(_report(read.labels, logits, task))
        if target:
            _write_result(target, read, logits, task)
            print(f"answers: {target}")
    return 0


def _default_split(layout: Layout) -> str:
    labelled = TEST in layout.splits and layout.splits[TEST].labelled
    return TEST if labelled else EVAL


def _report(labels: list[int], logits: "np.ndarray", task: Task) -> str:
    """Returns accuracy, the report of each label, and the confusion matrix, for a person."""
    import numpy as np
    from sklearn.metrics import classification_report

    from bert_tfx.modeling.training.metrics import confusion_matrix, evaluation_metrics

    truth = np.asarray(labels)
    measured = evaluation_metrics(truth, logits)
    classes = list(range(len(task.labels)))
    report = classification_report(
        truth,
        logits.argmax(axis=1),
        labels=classes,
        target_names=task.labels,
        digits=4,
        zero_division=0.0,
    )
    counts = confusion_matrix(truth, logits)
    width = max(len(str(counts.max())), *map(len, task.labels)) + 2
    lines = [
        f"accuracy {measured['accuracy']:.4f}, loss {measured['loss']:.4f}",
        "",
        report,
        "confusion matrix (a line for each label, a column for each prediction)",
        " " * width + "".join(label.rjust(width) for label in task.labels),
        *(
            label.rjust(width) + "".join(str(count).rjust(width) for count in line)
            for label, line in zip(task.labels, counts, strict=True)
        ),
    ]
    return "\n".join(lines)


def _write_result(target: str, read: "LabelledTexts", logits: "np.ndarray", task: Task) -> None:
    """Writes the answers, the file whole or not at all."""
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
    lines = ["\t".join(["prediction", "label", "probability", *read.texts]).encode()]
    for row, index in enumerate(logits.argmax(axis=1)):
        label = "" if read.labels is None else task.labels[read.labels[row]]
        answer = f"{task.labels[index]}\t{label}\t{probabilities[row]:.6f}".encode()
        lines.append(b"\t".join([answer, *(texts[row] for texts in read.texts.values())]))
    try:
        files.write(target, b"".join(line + b"\n" for line in lines))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
