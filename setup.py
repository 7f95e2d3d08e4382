"""Packaging of bert-tfx: the top-level folders are imported as `bert_tfx.<folder>`."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"

# Bare `schema` or `pipeline` would collide with other packages on a Beam worker's path.
FOLDERS = ("schema", "modeling", "components", "serving", "pipeline", "sample")


def mapped_packages() -> dict[str, str]:
    """Maps each import name to its folder, relative to this file.

    Returns:
        One entry for each folder that holds an `__init__.py`, such as
        `{"bert_tfx.components.data_gate": "components/data_gate"}`.
    """
    packages = {}
    for folder in FOLDERS:
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            path = init.parent.relative_to(ROOT)
            packages[".".join(("bert_tfx", *path.parts))] = path.as_posix()
    return packages


PACKAGES = mapped_packages()

CLIENT = ["grpcio", "protobuf>=3.20.3,<7"]
# The ranges span TFX 1.16 to 1.21; requirements/ pins the two stacks that are tested.
PIPELINE = [
    "absl-py",
    "apache-beam>=2.47,<3",
    "dill",  # undeclared by TensorFlow Transform and tfx-bsl, which import it
    "grpcio-health-checking",
    "jinja2>=3.1,<4",
    "keras>=3.12,<4",
    "markupsafe",
    "ml-metadata>=1.16,<1.22",
    "numpy>=1.26,<3",
    "plotly>=6,<8",
    "requests>=2.31,<3",
    "safetensors>=0.4,<1",
    "scikit-learn>=1.3,<2",
    "scipy>=1.11,<2",
    "tensorboard>=2.16,<2.22",
    "tensorflow>=2.16.2,<2.22",
    "tensorflow-data-validation>=1.16.1,<1.22",
    "tensorflow-metadata>=1.16.1,<1.22",
    "tensorflow-model-analysis>=0.47,<0.53",
    "tensorflow-serving-api>=2.16.1,<2.22",
    "tensorflow-text>=2.16.1,<2.22",
    "tensorflow-transform>=1.16,<1.22",
    "tf-keras>=2.16,<2.22",  # undeclared by TensorFlow Transform, whose layer is one of its models
    "tfx>=1.16,<1.22",
]

setup(
    name="bert-tfx",
    version="0.1.0",
    description="From TSV files to a served BERT or DistilBERT text classifier, as a TFX pipeline.",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "bert_tfx.schema": ["**/*.pbtxt"],
        "bert_tfx.sample": ["*.tsv", "vocab.txt", "README.md", "phrases/*.json"],
        "bert_tfx.components": ["**/*.html", "**/*.css", "**/*.js"],
        "bert_tfx.serving": ["**/*.proto", "**/*.binpb"],
    },
    install_requires=CLIENT,
    extras_require={
        # All that an asking program needs: no TensorFlow.
        "client": CLIENT,
        "pipeline": PIPELINE,
        # Beside `pipeline`: exports in 8 bits for ONNX Runtime, and the server's second backend.
        "onnx": ["onnx>=1.16,<2", "onnxruntime>=1.17,<2"],
        # In an environment of its own: it does not resolve beside `pipeline`. With the two drivers
        # that it needs for PostgreSQL.
        "airflow": ["apache-airflow[postgres]>=3.2,<4"],
        "dev": [
            "cryptography",
            "hypothesis",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "setuptools",
            "statsmodels",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["bert-tfx = bert_tfx.pipeline.commands.cli:main"]},
)
