"""A classifier as an ONNX file for ONNX Runtime: token ids in, logits out.

The graph is written node by node. BERT is a dozen kinds of nodes, and so the fused ones of ONNX
Runtime (its domain `com.microsoft`) are there from the start: no converter, and no optimizer whose
patterns must match. The file is for ONNX Runtime alone.

In 8 bits it computes what `int8.py` says, as the SavedModel does.

Shapes: B batch, T tokens, R = B*T rows.
"""

import importlib.util
from typing import Any

import keras
import numpy as np

from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.transformer import PADDING_SCORE, TransformerBlock
from bert_tfx.modeling.export.int8 import LEVELS, SMALLEST, ZERO_POINT, quantized
from bert_tfx.modeling.export.matrix_layers import matrix_layers, matrix_of
from bert_tfx.modeling.text.features import SEGMENT_IDS, TOKEN_IDS
from bert_tfx.schema.errors import InputError

PADDING_MASK = "padding_mask"
LOGITS = "logits"

_FUSED = "com.microsoft"
# What ONNX Runtime 1.16 and later read.
_OPSET, _FUSED_OPSET, _IR_VERSION = 17, 1, 8


def is_onnx_installed() -> bool:
    """Whether ONNX files can be written here."""
    return importlib.util.find_spec("onnx") is not None


def to_onnx(classifier: TextClassifier, *, int8: bool) -> bytes:
    """Writes a classifier as an ONNX graph.

    Its inputs are int32 `[B, T]`: `token_ids`, `segment_ids` (not of DistilBERT), and
    `padding_mask`, 1 for a token and 0 for padding. Its output is `logits`, float32
    `[B, num_labels]`.

    Args:
        classifier: The classifier.
        int8: Whether matrices and products are in 8 bits.

    Returns:
        The content of the file.

    Raises:
        InputError: If the package `onnx` is missing.
    """
    if not is_onnx_installed():
        raise InputError(
            "an ONNX file needs the package onnx, which is not installed: "
            'pip install "bert-tfx[onnx]"'
        )
    return _Graph(classifier, int8=int8).serialized()


class _Graph:
    """A graph that grows; its methods add nodes and return the names of their outputs."""

    def __init__(self, classifier: TextClassifier, *, int8: bool) -> None:
        from onnx import helper

        self._helper = helper
        self._classifier = classifier
        self._narrow = set(map(id, matrix_layers(classifier))) if int8 else set()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._shapes: dict[int, str] = {}
        self._unsigned_of: dict[str, tuple[str, str]] = {}

    def serialized(self) -> bytes:
        from onnx import TensorProto, checker

        encoder, helper = self._classifier.encoder, self._helper
        hidden = self._embedded()
        for number in range(1, encoder.config.num_layers + 1):
            hidden = self._block(encoder.layer(number), hidden)
        self._nodes.append(helper.make_node("Identity", [self._head(hidden)], [LOGITS]))
        names = [TOKEN_IDS, SEGMENT_IDS, PADDING_MASK]
        if encoder.segment_embedding is None:
            names.remove(SEGMENT_IDS)
        graph = helper.make_graph(
            self._nodes,
            "text_classifier",
            [
                helper.make_tensor_value_info(name, TensorProto.INT32, ["rows", "tokens"])
                for name in names
            ],
            [
                helper.make_tensor_value_info(
                    LOGITS, TensorProto.FLOAT, ["rows", self._classifier.num_labels]
                )
            ],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="bert-tfx",
            ir_version=_IR_VERSION,
            opset_imports=[
                helper.make_opsetid("", _OPSET),
                helper.make_opsetid(_FUSED, _FUSED_OPSET),
            ],
        )
        checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content

    def _node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(
            self._helper.make_node(
                kind, list(inputs), [name], name=name, domain=domain, **attributes
            )
        )
        return name

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._constants:
            from onnx import numpy_helper

            self._constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def _weight(self, variable: keras.Variable) -> str:
        return self._constant(variable.path, _array(variable))

    def _embedded(self) -> str:
        """Embeddings, normed: `[R, hidden_dim]`."""
        encoder = self._classifier.encoder
        width = int(encoder.token_embedding.embeddings.shape[1])
        hidden = self._node(
            "Add", self._rows(encoder.token_embedding, TOKEN_IDS), self._positions(width)
        )
        if encoder.segment_embedding is not None:
            hidden = self._node("Add", hidden, self._rows(encoder.segment_embedding, SEGMENT_IDS))
        hidden = self._node("Reshape", hidden, self._constant(f"flat_{width}", [-1, width]))
        norm = encoder.embeddings_norm
        hidden = self._node(
            "LayerNormalization",
            hidden,
            self._weight(norm.gamma),
            self._weight(norm.beta),
            axis=-1,
            epsilon=norm.epsilon,
        )
        if encoder.embeddings_projection is not None:
            hidden = self._dense(encoder.embeddings_projection, hidden)
        return hidden

    def _rows(self, layer: keras.layers.Layer, ids: str) -> str:
        """The rows of an embedding: `[B, T, width]`."""
        table = matrix_of(layer)
        if id(layer) not in self._narrow:
            return self._node("Gather", self._weight(table), ids)
        matrix, scales = quantized(layer)
        rows = self._node("Gather", self._constant(table.path, matrix), ids)
        wide = self._node("Cast", rows, to=self._helper.np_dtype_to_tensor_dtype(np.dtype("f4")))
        found = self._node("Gather", self._constant(f"{table.path}/scales", scales), ids)
        return self._node("Mul", wide, found)

    def _positions(self, width: int) -> str:
        """The first T rows of the position embeddings: `[T, width]`."""
        layer = self._classifier.encoder.position_embedding
        table = _array(matrix_of(layer))
        if id(layer) in self._narrow:
            matrix, scales = quantized(layer)
            table = matrix.astype(np.float32) * scales
        return self._node(
            "Slice",
            self._constant(matrix_of(layer).path, table),
            self._constant("zeroth", [0]),
            self._node("Shape", TOKEN_IDS, start=1, end=2),
        )

    def _block(self, block: TransformerBlock, hidden: str) -> str:
        """A Transformer block: `[R, hidden_dim]`."""
        attention = block.attention
        dense = [attention.query_dense, attention.key_dense, attention.value_dense]
        inner = int(attention.query_dense.kernel.shape[1])
        batched = [self._batched(self._product(layer, hidden), inner) for layer in dense]
        biases = np.concatenate([_array(layer.bias) for layer in dense])
        context = self._node(
            "MultiHeadAttention",
            *batched,
            self._constant(f"{attention.path}/biases", biases),
            PADDING_MASK,
            domain=_FUSED,
            num_heads=attention.config.num_heads,
            mask_filter_value=PADDING_SCORE,
        )
        context = self._node("Reshape", context, self._constant(f"flat_{inner}", [-1, inner]))
        hidden = self._normed(attention.output_dense, block.attention_norm, context, hidden)
        inner_rows = self._node(
            "BiasGelu" if block.config.activation == "gelu" else "FastGelu",
            self._product(block.intermediate_dense, hidden),
            self._weight(block.intermediate_dense.bias),
            domain=_FUSED,
        )
        return self._normed(block.output_dense, block.output_norm, inner_rows, hidden)

    def _batched(self, rows: str, width: int) -> str:
        """`[R, width]` -> `[B, T, width]`."""
        if width not in self._shapes:
            size = self._constant(f"width_{width}", [width])
            shape = self._node("Shape", TOKEN_IDS)
            self._shapes[width] = self._node("Concat", shape, size, axis=0)
        return self._node("Reshape", rows, self._shapes[width])

    def _normed(
        self,
        dense: keras.layers.Dense,
        norm: keras.layers.LayerNormalization,
        inputs: str,
        skipped: str,
    ) -> str:
        """LayerNorm(skipped + dense(inputs)): `[R, hidden_dim]`."""
        return self._node(
            "SkipLayerNormalization",
            self._product(dense, inputs),
            skipped,
            self._weight(norm.gamma),
            self._weight(norm.beta),
            self._weight(dense.bias),
            domain=_FUSED,
            epsilon=norm.epsilon,
        )

    def _dense(self, layer: keras.layers.Dense, inputs: str) -> str:
        return self._node("Add", self._product(layer, inputs), self._weight(layer.bias))

    def _product(self, layer: keras.layers.Dense, inputs: str) -> str:
        """A dense layer without its bias: `[R, units]`."""
        if id(layer) not in self._narrow:
            return self._node("MatMul", inputs, self._weight(layer.kernel))
        matrix, scales = quantized(layer)
        path, units = layer.kernel.path, matrix.shape[1]
        unsigned, row_scales = self._unsigned(inputs)
        products = self._node(
            "MatMulIntegerToFloat",
            unsigned,
            self._constant(path, matrix),
            self._constant("one", np.float32(1)),
            self._constant(f"{path}/scales", scales[0]),
            self._constant("zero_point", np.uint8(ZERO_POINT)),
            self._constant(f"zero_points_{units}", np.zeros(units, np.int8)),
            domain=_FUSED,
        )
        return self._node("Mul", products, row_scales)

    def _unsigned(self, rows: str) -> tuple[str, str]:
        """A product's input in 8 bits: uint8 `[R, K]`, and its scales, `[R, 1]`."""
        if rows not in self._unsigned_of:
            largest = self._node("ReduceMax", self._node("Abs", rows), axes=[1], keepdims=1)
            largest = self._node("Max", largest, self._constant("smallest", np.float32(SMALLEST)))
            scales = self._node("Mul", largest, self._constant("level", np.float32(1 / LEVELS)))
            unsigned = self._node(
                "QuantizeLinear",
                self._node("Div", rows, scales),
                self._constant("one", np.float32(1)),
                self._constant("zero_point", np.uint8(ZERO_POINT)),
            )
            self._unsigned_of[rows] = unsigned, scales
        return self._unsigned_of[rows]

    def _head(self, rows: str) -> str:
        """The logits: `[B, num_labels]`."""
        classifier = self._classifier
        encoder = classifier.encoder
        hidden = self._batched(rows, encoder.config.hidden_dim)
        first = self._node("Gather", hidden, self._constant("first", np.int64(0)), axis=1)
        if classifier.pre_classifier is None:
            features = self._node("Tanh", self._dense(encoder.pooler, first))
        else:
            features = self._node("Relu", self._dense(classifier.pre_classifier, first))
        return self._dense(classifier.logits, features)


def _array(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
