"""Makes `training_step.npz`: what a training step does to three toy classifiers.

Run by `.venv/bin/python`. `tests/reference/test_training_step.py` holds every later step to it.
"""

import pathlib
from typing import Any

import numpy as np

from bert_tfx.modeling.checkpoints.loading import ENCODERS
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.training import optimization, train_step

FILE = pathlib.Path(__file__).parent / "training_step.npz"
LABELS = np.array([0, 2, 1, 1], np.int32)


def make_classifier(architecture: str) -> TextClassifier:
    """Returns a classifier whose weights are the same on every machine."""
    narrow = {"embedding_dim": 8} if architecture == "albert" else {}
    encoder = ENCODERS[architecture](
        vocab_size=20,
        hidden_dim=12,
        num_layers=2,
        num_heads=3,
        intermediate_dim=20,
        max_length=8,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.0,
        **narrow,
    )
    classifier = TextClassifier(encoder, num_labels=3, dropout=0.0)
    random = np.random.default_rng(7)
    for weight in classifier.weights:
        weight.assign(random.normal(float(weight.name == "gamma"), 0.3, weight.shape))
    return classifier


def make_batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    mask = (np.arange(8) < np.array([[8], [3], [5], [1]])).astype(np.int32)
    return {
        "token_ids": random.integers(1, 20, mask.shape).astype(np.int32) * mask,
        "segment_ids": random.integers(0, 2, mask.shape).astype(np.int32) * mask,
        "padding_mask": mask,
    }


def take_two_steps(architecture: str) -> dict[str, Any]:
    """Returns both losses, the weights after the first step, the logits after both."""
    model = make_classifier(architecture)
    optimizer = optimization.adamw(
        learning_rate=0.01, warmup_steps=2, total_steps=10, weight_decay=0.1, clip_norm=0.5
    )
    optimizer.build(model.trainable_variables)
    step = train_step.train_step(model, optimizer)
    first = step(make_batch(), LABELS)
    weights = {w.path: np.array(w.value) for w in model.weights}
    second = step(make_batch(), LABELS)
    logits = np.asarray(model(make_batch()))
    return {"losses": np.array([first.loss, second.loss]), "logits": logits, **weights}


def main() -> None:
    arrays = {
        f"{architecture}:{name}": value
        for architecture in ENCODERS
        for name, value in take_two_steps(architecture).items()
    }
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
