"""Reading a WordPiece vocabulary.

Plain Python, so that the command line can refuse a wrong file without loading a framework.
"""

from bert_tfx.schema.errors import InputError

UNK, CLS, SEP = "[UNK]", "[CLS]", "[SEP]"


def read_vocabulary(vocab_file: str) -> list[str]:
    """Reads a WordPiece vocabulary: one token a line, a token's id is its line's position.

    Args:
        vocab_file: Path of a `vocab.txt` in UTF-8, as the published checkpoints carry it.

    Returns:
        The tokens in the order of their ids.

    Raises:
        InputError: If the file cannot be read, is not UTF-8, has an empty line before its end or
            the same token twice, or lacks `[UNK]`, `[CLS]` or `[SEP]`.
    """
    try:
        with open(vocab_file, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{vocab_file}: the vocabulary cannot be read: {error.strerror}"
        ) from error
    if lines[-1] == b"":
        lines.pop()
    position: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{vocab_file}, line {number}: not UTF-8: {error.reason}") from error
        # The published Chinese vocabulary has a token of white space alone (U+2028): it stays as it
        # is, for it holds its id though no text can ever reach it.
        token = text.strip() or text
        if not token:
            raise InputError(
                f"{vocab_file}, line {number}: the line is empty; each line must hold one token, "
                "for a token's id is its line's position"
            )
        if token in position:
            raise InputError(
                f"{vocab_file}, line {number}: token {token!r} stands already in line "
                f"{position[token]}; a token can have one id only: remove the line that is not in "
                "the checkpoint's own vocabulary"
            )
        position[token] = number
    if missing := [token for token in (UNK, CLS, SEP) if token not in position]:
        raise InputError(
            f"{vocab_file}: {', '.join(missing)} not found in {len(lines)} lines; a BERT "
            "vocabulary holds [UNK], [CLS] and [SEP] on lines of their own: name the vocab.txt "
            "that came with the checkpoint"
        )
    return list(position)
