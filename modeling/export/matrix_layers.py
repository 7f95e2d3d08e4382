"""The layers whose matrix may have fewer than 32 bits, and how they compute with it then."""

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from bert_tfx.modeling.encoders.altering import altered
from bert_tfx.modeling.encoders.classifier import TextClassifier


def matrix_layers(classifier: TextClassifier) -> list[keras.layers.Layer]:
    """Returns the embeddings, and the dense layers of the blocks.

    They hold nearly all of a model's numbers. Pooler and head are not among them: they decide.
    """
    kinds = (keras.layers.Embedding, keras.layers.Dense)
    encoder = classifier.encoder
    layers = [layer for layer in encoder.embedding_layers() if isinstance(layer, kinds)]
    for block in encoder.blocks:
        attention = block.attention
        layers += [attention.query_dense, attention.key_dense, attention.value_dense]
        layers += [attention.output_dense, block.intermediate_dense, block.output_dense]
    return layers


def matrix_of(layer: keras.layers.Layer) -> keras.Variable:
    """Returns the matrix of one of the `matrix_layers`."""
    return layer.kernel if isinstance(layer, keras.layers.Dense) else layer.embeddings


@contextlib.contextmanager
def computing_with(
    layers: Sequence[keras.layers.Layer],
    *,
    multiply: Callable[[keras.layers.Layer, Any], Any],
    look_up: Callable[[keras.layers.Layer, Any], Any],
) -> Iterator[None]:
    """While it lasts, layers compute otherwise.

    Args:
        layers: Some of the `matrix_layers`.
        multiply: Computes a dense layer, given it and its input, float `[R, K]`.
        look_up: Computes an embedding, given it and its ids.
    """

    def call(layer: keras.layers.Layer, inputs: Any, training: bool | None = None) -> Any:
        compute = multiply if isinstance(layer, keras.layers.Dense) else look_up
        return compute(layer, inputs)

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(altered(layer, call=types.MethodType(call, layer)))
        yield
