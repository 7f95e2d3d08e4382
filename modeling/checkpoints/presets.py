"""The published checkpoints that `bert-tfx fetch` knows, and fetching them.

Each address, licence and checksum here was found in a public document; `docs/decisions/0018-
archives-and-downloads.md` names it. A checksum is None where none was published.

Plain Python, so that the command line can list the presets without loading a framework.
"""

import dataclasses
import difflib
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any, Final

from bert_tfx.modeling.checkpoints.archives import extract, is_archive, is_full, remedy
from bert_tfx.modeling.checkpoints.downloads import Progress, download
from bert_tfx.schema import files
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.locks import lock
from bert_tfx.schema.paths import CACHE_VARIABLE, cache_folder

PRESET_FILE: Final = "preset.json"
"""Lies beside the weights and says what they are; written last."""


@dataclasses.dataclass(frozen=True)
class PresetFile:
    """A file to download.

    Attributes:
        name: Its name here.
        url: Where its publisher keeps it.
        sha256: Its SHA-256, in hexadecimal, or None where none was published.
    """

    name: str
    url: str
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published checkpoint.

    Attributes:
        name: How the user calls it.
        architecture: `bert` or `distilbert`.
        language: What it was trained on, for people.
        vocab_size: Number of token ids.
        num_layers: Number of Transformer blocks.
        hidden_dim: Width of the hidden states. The feed-forward nets are four times as wide in all
            published models.
        lowercase: Whether its vocabulary is uncased.
        activation: `gelu` (exact, by erf) or `gelu_tanh` (the approximation).
        format: `google` (a zip with a TF1 checkpoint) or `hugging_face` (safetensors).
        files: What to download.
        licence: SPDX identifier of the weights' licence.
        source: The publisher's page.
        max_length: The longest sequence, in tokens.
        contents: SHA-256 of an archive's members, by file name, as far as published.
    """

    name: str
    architecture: str
    language: str
    vocab_size: int
    num_layers: int
    hidden_dim: int
    lowercase: bool
    activation: str
    format: str
    files: tuple[PresetFile, ...]
    licence: str
    source: str
    max_length: int = 512
    contents: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of the encoder's weights, the pooler's included where it has one."""
        width = self.hidden_dim
        norm = 2 * width
        attention = 4 * (width * width + width)
        feed_forward = 2 * width * 4 * width + 4 * width + width
        rows = self.vocab_size + self.max_length
        count = self.num_layers * (attention + feed_forward + 2 * norm) + norm
        if self.architecture == "bert":
            rows += 2
            count += width * width + width
        return count + rows * width


_APACHE = "Apache-2.0"
_GOOGLE_PAGE = "https://github.com/google-research/bert"
_GOOGLE_FILES = "https://storage.googleapis.com/bert_models"
_HUB = "https://huggingface.co"

_UNCASED_VOCAB = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
_CASED_VOCAB = "eeaa9875b23b04b4c54ef759d03db9d1ba1554838f8fb26c5d96fa551df93d02"
_CHINESE_VOCAB = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"


def _google(
    name: str,
    path: str,
    vocab_size: int,
    num_layers: int,
    hidden_dim: int,
    *,
    lowercase: bool,
    language: str = "English",
    config: str | None = None,
    weights: str | None = None,
    index: str | None = None,
    vocab: str | None = None,
) -> Preset:
    """Describes one of google-research/bert's zips by its path and its members' SHA-256."""
    members = {
        "bert_config.json": config,
        "bert_model.ckpt.data-00000-of-00001": weights,
        "bert_model.ckpt.index": index,
        "vocab.txt": vocab,
    }
    return Preset(
        name,
        "bert",
        language,
        vocab_size,
        num_layers,
        hidden_dim,
        lowercase,
        # `gelu` in google-research/bert, modeling.py.
        "gelu_tanh",
        "google",
        (PresetFile(os.path.basename(path), f"{_GOOGLE_FILES}/{path}"),),
        _APACHE,
        _GOOGLE_PAGE,
        contents={member: digest for member, digest in members.items() if digest},
    )


def _hugging_face(
    name: str,
    repository: str,
    revision: str,
    architecture: str,
    vocab_size: int,
    num_layers: int,
    *,
    lowercase: bool,
    language: str = "English",
    config: str | None = None,
    weights: str | None = None,
    vocab: str | None = None,
) -> Preset:
    """Describes a repository at one revision, whose files do not change, by their SHA-256."""
    files = {"config.json": config, "vocab.txt": vocab, "model.safetensors": weights}
    return Preset(
        name,
        architecture,
        language,
        vocab_size,
        num_layers,
        768,
        lowercase,
        # `hidden_act` and `activation` of their configurations.
        "gelu",
        "hugging_face",
        tuple(
            PresetFile(file, f"{_HUB}/{repository}/resolve/{revision}/{file}", digest)
            for file, digest in files.items()
        ),
        _APACHE,
        f"{_HUB}/{repository}",
    )


_ALL = (
    _google(
        "bert-tiny-uncased",
        "2020_02_20/uncased_L-2_H-128_A-2.zip",
        30522,
        2,
        128,
        lowercase=True,
    ),
    _google(
        "bert-mini-uncased",
        "2020_02_20/uncased_L-4_H-256_A-4.zip",
        30522,
        4,
        256,
        lowercase=True,
    ),
    _google(
        "bert-small-uncased",
        "2020_02_20/uncased_L-4_H-512_A-8.zip",
        30522,
        4,
        512,
        lowercase=True,
    ),
    _google(
        "bert-medium-uncased",
        "2020_02_20/uncased_L-8_H-512_A-8.zip",
        30522,
        8,
        512,
        lowercase=True,
    ),
    _google(
        "bert-base-uncased",
        "2018_10_18/uncased_L-12_H-768_A-12.zip",
        30522,
        12,
        768,
        lowercase=True,
        config="7b4e5f53efbd058c67cda0aacfafb340113ea1b5797d9ce6ee411704ba21fcbc",
        weights="58580dc5e0bf0ae0d2efd51d0e8272b2f808857f0a43a88aaf7549da6d7a8a84",
        index="04c1323086e2f1c5b7c0759d8d3e484afbb0ab45f51793daab9f647113a0117b",
        vocab=_UNCASED_VOCAB,
    ),
    _google(
        "bert-base-cased",
        "2018_10_18/cased_L-12_H-768_A-12.zip",
        28996,
        12,
        768,
        lowercase=False,
        config="f11dfb757bea16339a33e1bf327b0aade6e57fd9c29dc6b84f7ddb20682f48bc",
        weights="734d5a1b68bf98d4e9cb6b6692725d00842a1937af73902e51776905d8f760ea",
        index="517d6ef5c41fc2ca1f595276d6fccf5521810d57f5a74e32616151557790f7b1",
        vocab=_CASED_VOCAB,
    ),
    _google(
        "bert-large-uncased",
        "2018_10_18/uncased_L-24_H-1024_A-16.zip",
        30522,
        24,
        1024,
        lowercase=True,
        config="bfa42236d269e2aeb3a6d30412a33d15dbe8ea597e2b01dc9518c63cc6efafcb",
        weights="bc6b3363e3be458c99ecf64b7f472d2b7c67534fd8f564c0556a678f90f4eea1",
        index="68b52f2205ffc64dc627d1120cf399c1ef1cbc35ea5021d1afc889ffe2ce2093",
        vocab=_UNCASED_VOCAB,
    ),
    _google(
        "bert-large-cased",
        "2018_10_18/cased_L-24_H-1024_A-16.zip",
        28996,
        24,
        1024,
        lowercase=False,
        config="7adb2125c8225da495656c982fd1c5f64ba8f20ad020838571a3f8a954c2df57",
        weights="6ff33640f40d472f7a16af0c17b1179ca9dcc0373155fb05335b6a4dd1657ef0",
        index="ef42a53f577fbe07381f4161b13c7cab4f4fc3b167cec6a9ae382c53d18049cf",
        vocab=_CASED_VOCAB,
    ),
    _google(
        "bert-large-wwm-uncased",
        "2019_05_30/wwm_uncased_L-24_H-1024_A-16.zip",
        30522,
        24,
        1024,
        lowercase=True,
    ),
    _google(
        "bert-large-wwm-cased",
        "2019_05_30/wwm_cased_L-24_H-1024_A-16.zip",
        28996,
        24,
        1024,
        lowercase=False,
    ),
    _google(
        "bert-base-multilingual-cased",
        "2018_11_23/multi_cased_L-12_H-768_A-12.zip",
        119547,
        12,
        768,
        lowercase=False,
        language="104 languages",
        config="e76c3964bc14a8bb37a5530cdc802699d2f4a6fddfab0611e153aa2528f234f0",
        weights="55b8a2df41f69c60c5180e50a7c31b7cdf6238909390c4ddf05fbc0d37aa1ac5",
        index="7d8509c2a62b4e300feb55f8e5f1eef41638f4998dd4d887736f42d4f6a34b37",
        vocab="fe0fda7c425b48c516fc8f160d594c8022a0808447475c1a7c6d6479763f310c",
    ),
    _google(
        "bert-base-chinese",
        "2018_11_03/chinese_L-12_H-768_A-12.zip",
        21128,
        12,
        768,
        lowercase=True,
        language="Chinese",
        config="7aaad0335058e2640bcb2c2e9a932b1cd9da200c46ea7b8957d54431f201c015",
        weights="756699356b78ad0ef1ca9ba6528297bcb3dd1aef5feadd31f4775d7c7fc989ba",
        index="46315546e05ce62327b3e2cd1bed22836adcb2ff29735ec87721396edb21b82e",
        vocab=_CHINESE_VOCAB,
    ),
    _hugging_face(
        "bert-base-chinese-hf",
        "google-bert/bert-base-chinese",
        "8f23c25b06e129b6c986331a13d8d025a92cf0ea",
        "bert",
        21128,
        12,
        # The repository's tokenizer_config.json says otherwise, but these are Google's weights,
        # which were trained on lower-cased text.
        lowercase=True,
        language="Chinese",
        config="88af762cfb15fa9ce183c84dcbfdc9d635196ba635dfe81f265fdd21d67f4c4c",
        weights="3404a1ffd8da507042e8161013ba2a4fc49858b4e3f8fbf5ce5724f94883aec3",
        vocab=_CHINESE_VOCAB,
    ),
    _hugging_face(
        "distilbert-base-uncased",
        "distilbert/distilbert-base-uncased",
        "12040accade4e8a0f71eabdb258fecc2e7e948be",
        "distilbert",
        30522,
        6,
        lowercase=True,
        config="69c94b0222d5d1f4b0ad027ca7416cdafb98378cbbb8305d0bf47c9365c60c83",
        weights="5e3f1108e3cb34ee048634875d8482665b65ac713291a7e32396fb18f6ff0063",
        vocab=_UNCASED_VOCAB,
    ),
    _hugging_face(
        "distilbert-base-cased",
        "distilbert/distilbert-base-cased",
        "6ea81172465e8b0ad3fddeed32b986cdcdcffcf0",
        "distilbert",
        28996,
        6,
        lowercase=False,
        weights="64080c2b1998c3bd1214311ab9f1e97b40052fa81d508b8b534a936c4ba1626b",
    ),
    _hugging_face(
        "distilbert-base-multilingual-cased",
        "distilbert/distilbert-base-multilingual-cased",
        "45c032ab32cc946ad88a166f7cb282f58c753c2e",
        "distilbert",
        119547,
        6,
        lowercase=False,
        language="104 languages",
        weights="fcf002be901b9ad708e0df430b8d18deaa4b3fe3519e24e9017a5ee17ca2c228",
    ),
)

PRESETS: Final[Mapping[str, Preset]] = {preset.name: preset for preset in _ALL}
"""The presets by name, in the order in which they are listed."""


def find_preset(name: str) -> Preset:
    """Returns the preset of a name.

    Raises:
        InputError: If there is none; the message says which names come close.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(f"no preset {name!r}; {hint}`bert-tfx presets` lists all of them")


def table() -> str:
    """Returns the presets as an aligned table, one line each."""
    rows = [("name", "language", "casing", "layers x hidden", "parameters", "licence", "source")]
    rows += [
        (
            preset.name,
            preset.language,
            "uncased" if preset.lowercase else "cased",
            f"{preset.num_layers} x {preset.hidden_dim}",
            f"{preset.parameters / 1e6:.1f} M",
            preset.licence,
            preset.source.removeprefix("https://"),
        )
        for preset in PRESETS.values()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (3, 4)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def preset_folder(name: str) -> str:
    """Returns where a preset goes unless the user names a folder: in the cache."""
    return cache_folder("presets", name)


def fetched(name: str) -> str | None:
    """Returns the folder of the cache that holds a preset whole, or None."""
    folder = preset_folder(name)
    return folder if os.path.isfile(os.path.join(folder, PRESET_FILE)) else None


def fetch(preset: Preset, folder: str | None = None, *, on_progress: Progress | None = None) -> str:
    """Downloads a preset, unless it is there already.

    Everything comes together in a hidden folder beside `folder`, from which a later call goes on,
    and is renamed to `folder` when it is whole. It then holds the checkpoint, its vocabulary and
    `preset.json`: name, architecture, lowercase, activation, max_length, licence and source, the
    downloads and the SHA-256 of each file.

    Args:
        preset: What to fetch.
        folder: Where to put it, or None for the cache (`preset_folder`).
        on_progress: Called after every few bytes, with those of the file under way.

    Returns:
        The folder.

    Raises:
        InputError: If `folder` holds something else, or a file cannot be downloaded, has another
            SHA-256 than expected, or cannot be unpacked or written.
    """
    folder = os.path.abspath(folder or preset_folder(preset.name))
    parent, name = os.path.split(folder)
    partial = os.path.join(parent, f".{name}.partial")
    try:
        if _is_whole(preset, folder) and not os.path.isdir(partial):
            return folder
        with lock(os.path.join(parent, f".{name}.lock")):
            # Another process may have fetched it while this one waited.
            if not _is_whole(preset, folder):
                files.move(_gather(preset, partial, on_progress), folder)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder}: {preset.name} cannot be put there: {error.strerror or error}; "
            f"{remedy(error)} or name another one ({CACHE_VARIABLE} says where the cache is)"
        ) from error
    return folder


def _is_whole(preset: Preset, folder: str) -> bool:
    """Whether a folder holds the preset; False where there is nothing yet."""
    if not os.path.lexists(folder) or (os.path.isdir(folder) and not os.listdir(folder)):
        return False
    try:
        with open(os.path.join(folder, PRESET_FILE), encoding="utf-8") as file:
            content: Any = json.load(file)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("name") != preset.name:
        raise InputError(
            f"{folder}: holds something else than {preset.name}; name a folder that does not exist "
            "yet, or remove this one"
        )
    return True


def _unpack(archive: str, into: str) -> str:
    """Unpacks a downloaded archive, and deletes it unless only room was missing."""
    try:
        return extract(archive, into).folder
    except InputError as error:
        cause = error.__cause__
        if not (isinstance(cause, OSError) and is_full(cause)):
            os.remove(archive)
        raise


def _gather(preset: Preset, partial: str, on_progress: Progress | None) -> str:
    """Downloads and unpacks all files; returns the folder that holds the whole checkpoint."""
    checkpoint = os.path.join(partial, "files")
    os.makedirs(checkpoint, exist_ok=True)
    downloads = []
    for file in preset.files:
        path = os.path.join(partial if is_archive(file.name) else checkpoint, file.name)
        found = download(file.url, path, sha256=file.sha256, on_progress=on_progress)
        downloads.append({"url": file.url, "sha256": found.sha256})
        if is_archive(file.name):
            checkpoint = _unpack(path, os.path.join(partial, "unpacked"))
    digests = {
        name: sha256_of(os.path.join(checkpoint, name))
        for name in sorted(os.listdir(checkpoint))
        if name != PRESET_FILE and os.path.isfile(os.path.join(checkpoint, name))
    }
    for name, expected in preset.contents.items():
        if digests.get(name) != expected:
            shutil.rmtree(partial, ignore_errors=True)
            raise InputError(
                f"{preset.files[0].url}: {name} in it has the SHA-256 {digests.get(name)}, "
                f"expected {expected}: the archive was damaged or replaced on its way here, and is "
                "deleted; try again, from another network if it stays so"
            )
    content = {
        "name": preset.name,
        "architecture": preset.architecture,
        "lowercase": preset.lowercase,
        "activation": preset.activation,
        "max_length": preset.max_length,
        "licence": preset.licence,
        "source": preset.source,
        "downloads": downloads,
        "sha256": digests,
    }
    with open(os.path.join(checkpoint, PRESET_FILE), "w", encoding="utf-8") as output:
        output.write(json.dumps(content, indent=2) + "\n")
    return checkpoint
