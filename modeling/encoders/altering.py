"""Layers that compute otherwise for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def altered(layer: keras.layers.Layer, **attributes: Any) -> Iterator[None]:
    """While it lasts, a layer has other attributes; what calls them computes with these.

    Args:
        layer: The layer.
        **attributes: By name; a method of the layer's class is given as a function of the
            arguments alone.
    """
    # Not by setattr: Keras would take a layer among them for a new one.
    own = layer.__dict__
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes.keys() - before:
            del own[name]
        own.update(before)
