"""The product in 8 bits: exports compute with it, servers ask for it before they load one."""

import tensorflow as tf


def int8_product(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Multiplies whole numbers; oneDNN alone computes it.

    Args:
        inputs: quint8 `[R, K]`.
        kernel: int8 `[K, N]`.
        bias: float32 `[N]`.

    Returns:
        float32 `[R, N]`.
    """
    # Ranges by which both scales are 1: what comes out are the whole numbers.
    return tf.raw_ops.QuantizedMatMulWithBiasAndDequantize(
        a=inputs,
        b=tf.bitcast(kernel, tf.qint8),
        bias=bias,
        min_a=0.0,
        max_a=255.0,
        min_b=-127.0,
        max_b=127.0,
        min_freezed_output=-1.0,
        max_freezed_output=1.0,
        Toutput=tf.float32,
        input_quant_mode="SCALED",
    )
