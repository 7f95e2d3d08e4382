"""Fine-tunes a checkpoint with Hugging Face's Trainer: the other side of `fine_tuning.py`.

Runs in `.venv-reference`, knows nothing of this project, and prints a JSON object a line.
"""

import argparse
import json
import logging
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
import torch
import transformers


def read(path: pathlib.Path) -> tuple[list[str], list[int]]:
    """Returns texts and labels of a TSV file in GLUE's layout (`sentence`, `label`)."""
    lines = path.read_text(encoding="utf-8").split("\n")[1:]
    fields = [line.split("\t") for line in lines if line]
    return [text for text, _ in fields], [int(label) for _, label in fields]


class Rows(torch.utils.data.Dataset):
    """Tokenized rows."""

    def __init__(self, path: pathlib.Path, tokenizer: Any, max_length: int) -> None:
        """Tokenizes the rows of a file."""
        texts, self.labels = read(path)
        self.encoded = tokenizer(texts, truncation=True, max_length=max_length)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        """Returns a row as the Trainer wants it."""
        row = {name: values[index] for name, values in self.encoded.items()}
        return {**row, "labels": self.labels[index], "length": len(row["input_ids"])}


def main() -> None:
    """Trains once for each seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.pretrained)
    rows = {
        split: Rows(arguments.data / f"{split}.tsv", tokenizer, arguments.max_length)
        for split in ("train", "dev")
    }
    for seed in arguments.seeds:
        start = time.monotonic()
        transformers.set_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            arguments.pretrained, num_labels=2
        )
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model=model,
                args=transformers.TrainingArguments(
                    output_dir=folder,
                    seed=seed,
                    num_train_epochs=arguments.epochs,
                    per_device_train_batch_size=arguments.batch_size,
                    per_device_eval_batch_size=64,
                    learning_rate=arguments.learning_rate,
                    warmup_steps=0.1,
                    lr_scheduler_type="linear",
                    weight_decay=0.01,
                    max_grad_norm=1.0,
                    train_sampling_strategy="group_by_length",
                    length_column_name="length",
                    use_cpu=True,
                    save_strategy="no",
                    logging_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=rows["train"],
                data_collator=transformers.DataCollatorWithPadding(tokenizer),
            )
            trainer.train()
            train_seconds = time.monotonic() - start
            # Grouping by length reorders these rows, too: the labels must come from here.
            predicted = trainer.predict(rows["dev"])
        accuracy = float(np.mean(predicted.predictions.argmax(axis=1) == predicted.label_ids))
        print(
            json.dumps({"seed": seed, "accuracy": accuracy, "seconds": train_seconds}), flush=True
        )


if __name__ == "__main__":
    main()
