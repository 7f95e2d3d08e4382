"""Makes `tensorflow_2_16_ops.json`: which attributes TensorFlow 2.16 and TF-Text know of ops.

Run by the `.venv/bin/python` of the classic stack. Arguments are ops to add to those of the file.
"""

import json
import pathlib
import sys

import tensorflow as tf
import tensorflow_text
from tensorflow.python.framework import op_def_registry

FILE = pathlib.Path(__file__).parent / "tensorflow_2_16_ops.json"


def main() -> None:
    assert tf.__version__.startswith("2.16."), tf.__version__
    for library in (pathlib.Path(tensorflow_text.__file__).parent / "python" / "ops").glob("*.so"):
        tf.load_op_library(str(library))
    names = sorted({*json.loads(FILE.read_text(encoding="utf-8"))["ops"], *sys.argv[1:]})
    ops = {name: sorted(attr.name for attr in op_def_registry.get(name).attr) for name in names}
    table = {
        "tensorflow": tf.__version__,
        "tensorflow_text": tensorflow_text.__version__,
        "graph_def_version": tf.version.GRAPH_DEF_VERSION,
        "ops": ops,
    }
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
