"""The served graph: raw text in, class probabilities and label names out.

Text goes through the very graph that made the training data, then through the model in
micro-batches of like length, so that neither a batch of a thousand long rows (TFMA's Beam batches)
nor one long row among short ones costs what padding all of them would.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from bert_tfx.modeling.features import NUM_TOKENS, NUM_TRUNCATED, SEGMENT_IDS, TOKEN_IDS
from bert_tfx.schema.tasks import TEXT_A, TEXT_B

SERVING_DEFAULT = "serving_default"
SERVE_TEXT = "serve_text"
SLICE_FEATURES = "slice_features"

LENGTH_BUCKET = "length_bucket"
TRUNCATED = "truncated"

# Tokens a micro-batch at most, padding included: 8 rows of 512 or 128 rows of 32. The activations
# of BERT-base stay under half a gigabyte and the matrix products are still large.
_TOKENS_PER_MICRO_BATCH = 4096

_BUCKET_BOUNDS = (16, 32, 64, 128, 256)
_BUCKET_NAMES = ("000-015", "016-031", "032-063", "064-127", "128-255", "256-")


class ServedClassifier(tf.Module):
    """A transform graph and a classifier behind the signatures that TF Serving calls.

    Args:
        classifier: Called with a dict of `token_ids`, `segment_ids`, `padding_mask`, int32
            `[B, T]`; returns logits, float32 `[B, classes]`.
        transform: The transform graph: maps a dict of string `[B]` features to a dict with ragged
            `token_ids` (`text_features` says what else).
        labels: The label of each class index.
        is_pair: Whether rows hold two texts.
    """

    def __init__(
        self,
        classifier: keras.Model,
        transform: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]],
        *,
        labels: Sequence[str],
        is_pair: bool,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.transform = transform
        self._labels = list(labels)
        self._text_features = (TEXT_A, TEXT_B) if is_pair else (TEXT_A,)
        # One function for both doors: the model is traced, and stands in the graph, once.
        self._classify = tf.function(self._probabilities)

    def save(self, directory: str) -> None:
        """Writes the SavedModel with its signatures.

        `serving_default` takes `examples` (string `[B]`, serialized `tf.Example`), `serve_text`
        takes `text_a` and, for pairs, `text_b` (string `[B]`). Both return `probabilities` (float32
        `[B, classes]`), `label` (string `[B]`) and `classes` (string `[B, classes]`).
        `slice_features` takes `examples` and returns what evaluations slice by: `length_bucket`
        and `truncated` (string `[B]`).

        Args:
            directory: Where the SavedModel goes.
        """
        examples = tf.TensorSpec([None], tf.string, name="examples")
        texts = {name: tf.TensorSpec([None], tf.string, name=name) for name in self._text_features}
        signatures = {
            SERVING_DEFAULT: tf.function(self._serve_examples).get_concrete_function(examples),
            SERVE_TEXT: tf.function(lambda **texts: self._serve(texts)).get_concrete_function(
                **texts
            ),
            SLICE_FEATURES: tf.function(self._slice_features).get_concrete_function(examples),
        }
        tf.saved_model.save(self, directory, signatures=signatures)

    def _parse(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {name: tf.io.FixedLenFeature([], tf.string) for name in self._text_features}
        return tf.io.parse_example(examples, spec)

    def _serve_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._serve(self._parse(examples))

    def _serve(self, texts: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        features = self.transform(texts)
        probabilities = self._classify(features[TOKEN_IDS], features.get(SEGMENT_IDS))
        labels = tf.constant(self._labels)
        return {
            "probabilities": probabilities,
            "label": tf.gather(labels, tf.argmax(probabilities, axis=1)),
            "classes": tf.repeat(labels[None, :], tf.shape(probabilities)[0], axis=0),
        }

    def _slice_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = self.transform(self._parse(examples))
        bucket = tf.searchsorted(
            tf.constant(_BUCKET_BOUNDS, tf.int64), features[NUM_TOKENS], side="right"
        )
        truncated = features[NUM_TRUNCATED] > 0
        return {
            LENGTH_BUCKET: tf.gather(tf.constant(_BUCKET_NAMES), bucket),
            TRUNCATED: tf.where(truncated, "yes", "no"),
        }

    def _probabilities(
        self, token_ids: tf.RaggedTensor, segment_ids: tf.RaggedTensor | None
    ) -> tf.Tensor:
        """Runs the classifier in micro-batches, the longest rows first.

        Args:
            token_ids: int64 `[B, (T)]`.
            segment_ids: The same shape, or None where all are 0.

        Returns:
            float32 `[B, classes]`, in the order of the rows.
        """
        lengths = token_ids.row_lengths()
        order = tf.argsort(lengths, direction="DESCENDING", stable=True)
        rows = tf.size(order)

        def micro_batch(start: tf.Tensor, done: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            width = tf.cast(lengths[order[start]], tf.int32)
            end = tf.minimum(rows, start + tf.maximum(1, _TOKENS_PER_MICRO_BATCH // width))
            chosen = order[start:end]
            ids = tf.cast(tf.gather(token_ids, chosen).to_tensor(), tf.int32)
            segments = (
                tf.zeros_like(ids)
                if segment_ids is None
                else tf.cast(tf.gather(segment_ids, chosen).to_tensor(), tf.int32)
            )
            mask = tf.sequence_mask(tf.gather(lengths, chosen), width, tf.int32)
            logits = self.classifier(
                {"token_ids": ids, "segment_ids": segments, "padding_mask": mask}, training=False
            )
            return end, tf.concat([done, tf.nn.softmax(logits)], axis=0)

        classes = len(self._labels)
        _, sorted_probabilities = tf.while_loop(
            lambda start, done: start < rows,
            micro_batch,
            (tf.constant(0), tf.zeros([0, classes])),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, classes])),
            parallel_iterations=1,
        )
        return tf.gather(sorted_probabilities, tf.argsort(order))
