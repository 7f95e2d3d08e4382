"""Fewer layers, heads and neurons for a trained model.

The weights are removed, not set to zero: every kernel gets smaller, and so do file, memory and
time. All layers keep the same number of heads and neurons, so that an encoder is still described by
a few numbers.

Shapes: B batch, T tokens, H heads, D head size, F neurons.

Sources: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", arXiv:1905.10650
(heads); Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient
Inference", arXiv:1611.06440 (neurons); Sajjad et al. 2020, "On the Effect of Dropping Layers of
Pre-trained Transformer Models", arXiv:2004.03844 (layers).
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.altering import altered
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.reshaping import as_array, reshaped
from bert_tfx.modeling.text.batching import Rows, evaluation_batches
from bert_tfx.schema.errors import InputError

# Rows at a time: their activations are all kept for the gradient.
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much the loss depends on the parts of each block.

    Attributes:
        heads: float64 `[blocks, H]`.
        neurons: float64 `[blocks, F]`, of the feed-forward nets' inner layer.
    """

    heads: np.ndarray
    neurons: np.ndarray


def keep_layers(classifier: TextClassifier, layers: Sequence[int]) -> TextClassifier:
    """Makes a classifier of some of the layers.

    Args:
        classifier: Its encoder is BERT or DistilBERT; it stays as it is.
        layers: Numbers of the layers that stay, from 0, ascending.

    Returns:
        A new classifier.

    Raises:
        InputError: If there is no such layer, the numbers do not ascend, or the encoder is ALBERT,
            whose layers are one block many times.
    """
    encoder = classifier.encoder
    if isinstance(encoder, AlbertEncoder):
        raise InputError(
            "ALBERT's layers are one block, applied many times: there is none to leave out"
        )
    count = encoder.config.num_layers
    if unknown := [layer for layer in layers if not 0 <= layer < count]:
        raise InputError(
            f"layer {unknown[0]}: no such layer; the model has {count}, numbered 0 to {count - 1}"
        )
    if not layers or list(layers) != sorted(set(layers)):
        raise InputError(
            "the layers to keep must be numbers that ascend, at least one. Received: "
            + ",".join(map(str, layers))
        )
    new_number = {layer: i for i, layer in enumerate(layers)}
    values = {}
    for weight in encoder.weights:
        block = re.search(r"/block_(\d+)/", weight.path)
        if block and int(block[1]) in new_number:
            path = weight.path.replace(block[0], f"/block_{new_number[int(block[1])]}/")
            values[path] = as_array(weight)
    return reshaped(classifier, {"num_layers": len(layers)}, values)


def importance(
    classifier: TextClassifier, rows: Rows, on_rows: Callable[[int], None] = lambda done: None
) -> Importance:
    """Measures how much the loss depends on each head and each neuron.

    A gate g = 1 stands at each: on a head's context before the attention's output kernel, on a
    neuron's activation before the feed-forward net's. Its importance is the mean over the rows of
    |dL/dg|, L the cross-entropy of the row: to first order what the loss changes by without it
    (arXiv:1905.10650, section 4.1, equation 2). Dropout is off.

    Args:
        classifier: In float32.
        rows: What to measure on.
        on_rows: Told how many rows are done.

    Returns:
        The importances.
    """
    encoder = classifier.encoder
    blocks = encoder.blocks
    num_heads, num_neurons = encoder.config.num_heads, encoder.config.intermediate_dim
    heads, neurons = np.zeros((len(blocks), num_heads)), np.zeros((len(blocks), num_neurons))
    done = 0
    for indices in evaluation_batches(rows.lengths, _BATCH):
        batch = {name: tf.constant(values) for name, values in rows.batch(indices).items()}
        size = len(indices)
        head_gates = [tf.ones((size, num_heads)) for _ in blocks]
        neuron_gates = [tf.ones((size, num_neurons)) for _ in blocks]
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape,
            contextlib.ExitStack() as stack,
        ):
            tape.watch([head_gates, neuron_gates])
            for block, head_gate, neuron_gate in zip(blocks, head_gates, neuron_gates, strict=True):
                for layer, gates in ((block.attention, head_gate), (block, neuron_gate)):
                    gated = _gated(layer.output_dense, gates)
                    stack.enter_context(altered(layer, output_dense=gated))
            logits = classifier(batch, training=False)
            # Summed, as each row has gates of its own.
            loss = tf.reduce_sum(
                tf.nn.sparse_softmax_cross_entropy_with_logits(rows.labels[indices], logits)
            )
        for scores, gradients in zip(
            (heads, neurons), tape.gradient(loss, (head_gates, neuron_gates)), strict=True
        ):
            scores += np.abs(np.stack(gradients)).sum(axis=1)
        done += size
        on_rows(done)
    return Importance(heads / len(rows), neurons / len(rows))


def prune_heads(classifier: TextClassifier, scores: np.ndarray, share: float) -> TextClassifier:
    """Makes a classifier without each block's least important heads.

    Args:
        classifier: It stays as it is.
        scores: `Importance.heads`.
        share: Of the heads that go, in [0, 1); rounded down.

    Returns:
        A new classifier.
    """
    encoder = classifier.encoder
    head_dim = encoder.config.head_size
    kept = most_important(scores, share)
    values = {}
    for block, heads in zip(encoder.blocks, kept, strict=True):
        columns = (heads[:, None] * head_dim + np.arange(head_dim)).ravel()
        attention = block.attention
        for dense in (attention.query_dense, attention.key_dense, attention.value_dense):
            values[dense.kernel.path] = as_array(dense.kernel)[:, columns]
            values[dense.bias.path] = as_array(dense.bias)[columns]
        output = attention.output_dense.kernel
        values[output.path] = as_array(output)[columns]
    return reshaped(classifier, {"num_heads": kept.shape[1], "head_dim": head_dim}, values)


def prune_neurons(classifier: TextClassifier, scores: np.ndarray, share: float) -> TextClassifier:
    """Makes a classifier without the feed-forward nets' least important neurons.

    Args:
        classifier: It stays as it is.
        scores: `Importance.neurons`.
        share: Of the neurons that go, in [0, 1); rounded down.

    Returns:
        A new classifier.
    """
    kept = most_important(scores, share)
    values = {}
    for block, neurons in zip(classifier.encoder.blocks, kept, strict=True):
        inner, outer = block.intermediate_dense, block.output_dense
        values[inner.kernel.path] = as_array(inner.kernel)[:, neurons]
        values[inner.bias.path] = as_array(inner.bias)[neurons]
        values[outer.kernel.path] = as_array(outer.kernel)[neurons]
    return reshaped(classifier, {"intermediate_dim": kept.shape[1]}, values)


def removed(count: int, share: float, what: str) -> int:
    """Returns how many of some parts a share is.

    Args:
        count: Parts of a block.
        share: Of them, in [0, 1).
        what: Their name, for the message.

    Raises:
        InputError: If it is not even one.
    """
    number = _share_of(count, share)
    if number == 0:
        raise InputError(
            f"a share of {share:g} of {count} {what} is less than one of them: name at least "
            f"{1 / count:.3g}, or leave it out"
        )
    return number


def most_important(scores: np.ndarray, share: float) -> np.ndarray:
    """Returns the numbers of the parts that stay, int64 `[blocks, parts]`, ascending."""
    parts = scores.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.sort(order[:, : parts - _share_of(parts, share)], axis=1)


def _share_of(count: int, share: float) -> int:
    # 0.29 * 100 is a little less than 29.
    return int(count * share + 1e-9)


def _gated(dense: keras.layers.Dense, gates: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a dense layer with gates, `[B, groups]`, on its input, `[B*T, groups * n]`."""

    def gated(inputs: tf.Tensor) -> tf.Tensor:
        rows, groups = gates.shape
        grouped = tf.reshape(inputs, (rows, -1, groups, inputs.shape[1] // groups))
        return dense(tf.reshape(grouped * gates[:, None, :, None], tf.shape(inputs)))

    return gated
