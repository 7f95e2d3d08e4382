"""Writes the embedded sample dataset: invented Chinese and English reviews with a sentiment label.

``python -m bert_tfx.sample.generate`` rewrites ``train.tsv``, ``dev.tsv``, ``test.tsv`` and
``vocab.txt`` beside this file, byte for byte the same each time: all randomness comes from one
seeded generator. What is said stands in ``phrases/``, a file for each language.

A row is composed in three steps. The *plan* fixes its language, label, kind (how the sentiment is
expressed: plainly, negated, in a contrast, ...) and decorations (what makes the row awkward to
read: quotes, emoji, full-width digits, ...) with exact shares per split, so that no split lacks a
feature. The *core* is a list of sentences that carry the sentiment. Neutral sentences and
character-level changes are added last.

Which half of a contrast decides is the one rule a reader has to know: what comes after "but" and
"但是", and the main clause of "although" and "虽然".
"""

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

SEED = 20_240_229
SPLIT_SIZES = {"train": 4_000, "dev": 800, "test": 800}
HEADER = "label\ttext_a\tlanguage"
NEGATIVE, POSITIVE = "0", "1"


@dataclass(frozen=True)
class Aspect:
    """One thing that a review can praise or blame.

    Attributes:
        subject: the noun phrase that begins a clause.
        good: gradable words of praise; each reads well with and without a negation.
        bad: gradable words of blame, likewise.
        plural: whether an English verb after ``subject`` is plural.
        pronoun: what stands for the subject when it is named again; nothing in Chinese.
    """

    subject: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    plural: bool
    pronoun: str


@dataclass(frozen=True)
class Domain:
    """Everything that can be said about one kind of thing, in one language.

    Attributes:
        aspects: what is judged.
        good_events: whole clauses that are good news.
        bad_events: whole clauses that are bad news.
        openers: neutral sentences to begin with; slots such as ``{n}`` are filled at random.
        details: neutral sentences for anywhere.
        foreign: neutral sentences with words of the other language or script.
        accented: neutral sentences with accented letters (English only).
        quoted: names that a writer would put in quotes.
        quoting: a neutral sentence that begins with such a name, at ``{quoted}``.
        past: whether English clauses are in the past tense.
    """

    aspects: tuple[Aspect, ...]
    good_events: tuple[str, ...]
    bad_events: tuple[str, ...]
    openers: tuple[str, ...]
    details: tuple[str, ...]
    foreign: tuple[str, ...]
    quoted: tuple[str, ...]
    quoting: str
    accented: tuple[str, ...] = ()
    past: bool = True


@dataclass(frozen=True)
class Language:
    """The grammar of one language.

    In the forms, ``{s}`` is a subject, ``{be}`` its verb, ``{a}`` and ``{b}`` are two words of
    the same polarity; ``{x}`` is the clause that is conceded and ``{y}`` the one that decides;
    ``{p}`` is praise, ``{c}`` criticism and ``{v}`` a verdict.

    Attributes:
        code: ``"zh"`` or ``"en"``.
        domains: the domains.
        fillers: what may stand in a slot of a neutral sentence, by the slot's name.
        any_good: gradable praise that fits any subject.
        any_bad: gradable blame that fits any subject.
        strong_good: praise too strong to be negated.
        strong_bad: blame too strong to be negated.
        strong_forms: clauses for the strong words.
        good_forms: clauses of praise.
        bad_forms: clauses of blame.
        negated_forms: clauses that turn the polarity of the word round.
        contrast_forms: sentences in which one of two opposed clauses decides.
        weighed_forms: praise, criticism, and a verdict that decides.
        ambiguous_forms: praise and criticism without a verdict.
        good_verdicts: closing praise.
        bad_verdicts: closing blame.
        space: what stands between two sentences.
        ends: what ends the last sentence, repeated by weight.
        breaks: what ends the other sentences, repeated by weight.
        joints: what joins two clauses of one sentence, repeated by weight.
        short_length: the least and greatest length of a very short row, in words or characters.
        long_length: the least and greatest length aimed at for a long row, in characters.
    """

    code: str
    domains: tuple[Domain, ...]
    fillers: Mapping[str, tuple[str, ...]]
    any_good: tuple[str, ...]
    any_bad: tuple[str, ...]
    strong_good: tuple[str, ...]
    strong_bad: tuple[str, ...]
    strong_forms: tuple[str, ...]
    good_forms: tuple[str, ...]
    bad_forms: tuple[str, ...]
    denied_bad_forms: tuple[str, ...]
    denied_good_forms: tuple[str, ...]
    conceded_good_forms: tuple[str, ...]
    conceded_bad_forms: tuple[str, ...]
    contrast_forms: tuple[str, ...]
    weighed_forms: tuple[str, ...]
    ambiguous_forms: tuple[str, ...]
    good_verdicts: tuple[str, ...]
    bad_verdicts: tuple[str, ...]
    space: str
    ends: tuple[str, ...]
    breaks: tuple[str, ...]
    joints: tuple[str, ...]
    short_length: tuple[int, int]
    long_length: tuple[int, int]


def _aspect(
    subject: str, good: str, bad: str, *, plural: bool = False, pronoun: str | None = None
) -> Aspect:
    """An Aspect whose words are given as one string with spaces."""
    if pronoun is None:
        pronoun = ("they" if plural else "it") if subject.isascii() else ""
    return Aspect(subject, tuple(good.split()), tuple(bad.split()), plural, pronoun)


def _read_language(code: str) -> Language:
    """Reads the grammar of a language, and what fills its slots, from `phrases/`."""
    text = (Path(__file__).parent / "phrases" / f"{code}.json").read_text(encoding="utf-8")
    given = json.loads(text, object_hook=_with_tuples)
    domains = [
        Domain(**domain | {"aspects": tuple(_aspect(**aspect) for aspect in domain["aspects"])})
        for domain in given.pop("domains").values()
    ]
    return Language(code=code, domains=tuple(domains), **given)


def _with_tuples(given: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}


LANGUAGES = {code: _read_language(code) for code in ("zh", "en")}

# === Fillers and decorations ===

Filler = Callable[[random.Random], str]


def _one_of(choices: Sequence[str]) -> Filler:
    return lambda rng: rng.choice(choices)


def _number(least: int, greatest: int) -> Filler:
    return lambda rng: str(rng.randint(least, greatest))


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(10, 22)}:{rng.choice(('00', '10', '30', '45'))}"


def _english_price(rng: random.Random) -> str:
    amount = rng.choice((8, 15, 29, 39, 49, 75, 120, 199, 250, 1_280))
    cents = rng.choice(("", "", ".50", ".99"))
    return f"{rng.choice('$$€£')}{amount:,}{cents}"


def _chinese_price(rng: random.Random) -> str:
    amount = rng.choice((9, 18, 39, 59, 88, 128, 168, 199, 299, 1_280))
    return rng.choice(("{}元", "{}块", "￥{}", "¥{}")).format(amount)


PRICES = {"en": _english_price, "zh": _chinese_price}
FILLERS: dict[str, dict[str, Filler]] = {
    code: {
        "n": _number(2, 9),
        "m": _number(0, 9),
        "room": _number(101, 899),
        "time": _clock,
        "price": PRICES[code],
        **{slot: _one_of(choices) for slot, choices in language.fillers.items()},
    }
    for code, language in LANGUAGES.items()
}

GOOD_EMOJI = ("😊", "👍", "😍", "🎉", "🥰", "💯", "👏", "😋", "👍👍")
BAD_EMOJI = ("😡", "👎", "😭", "💔", "😤", "🙄", "😞", "😩", "👎👎")
# Seen too seldom in train to enter the vocabulary: every split holds unknown tokens.
RARE_EMOJI = tuple("🦑🪁🛶🧿🎻🦔🪴🧭🛷🥁🦜🪕🧵🛸🦩🥨🧶🪀🦚🧊🎐🦦🪗🐡")
# Sequences of several code points: zero-width joiners, variation selectors, skin tones.
GOOD_SEQUENCES = ("❤️", "☺️", "👍🏻", "🙆‍♀️", "👩‍❤️‍👨", "✌🏽")
BAD_SEQUENCES = ("☹️", "🤦‍♀️", "🤦🏽‍♂️", "🙅‍♀️", "😮‍💨", "👎🏻")
NEUTRAL_SEQUENCES = ("👨‍👩‍👧", "✈️", "☀️", "👩‍💻", "🧑‍🍳", "🏖️", "🌧️")
RARE_EMOJI_SHARE = 0.15
NEUTRAL_SEQUENCE_SHARE = 0.4

# Shares of the rows of one language and label; "plain" takes the rest.
KIND_SHARES = {
    "zh": {
        "short": 0.06,
        "long": 0.095,
        "negated": 0.13,
        "contrast": 0.12,
        "weighed": 0.03,
        "ambiguous": 0.01,
    },
    "en": {
        "short": 0.06,
        "long": 0.03,
        "negated": 0.13,
        "contrast": 0.12,
        "weighed": 0.03,
        "ambiguous": 0.01,
    },
}
# Labels turned round on purpose, as careless annotators would.
MISLABELLED_SHARE = 0.012

# Shares of the rows of one language and label, never on very short rows. The decorations of one
# group fall on different rows.
DECORATION_SHARES: dict[str, tuple[dict[str, float], ...]] = {
    "zh": (
        {"quoted_start": 0.04, "unclosed_quote": 0.04, "curly_quotes": 0.07},
        {"emoji": 0.06, "emoji_sequence": 0.07},
        {"foreign": 0.07},
        {"full_width_digits": 0.07},
        {"ellipsis": 0.07},
    ),
    "en": (
        {"quoted_start": 0.04, "unclosed_quote": 0.04},
        {"emoji": 0.06, "emoji_sequence": 0.07},
        {"foreign": 0.02, "accented": 0.075},
        {"casing": 0.1},
    ),
}
# How often a row holds a neutral sentence at its beginning and at its end.
OPENER_SHARE = 0.12
DETAIL_SHARE = 0.05
# How often a gradable word is one that fits any subject, without and with a negation.
ANY_SUBJECT_SHARE = 0.12
NEGATED_ANY_SUBJECT_SHARE = 0.2
# How often the clause that is conceded in a contrast says so itself.
HEDGED_SHARE = 0.35
# How often a negation is one that mostly goes with the other polarity.
UNUSUAL_NEGATION_SHARE = 0.08

# Words that a writer shouts rather than others.
SHOUTED = frozenset(
    ["not", "never", "very", "really", "so", "simply", "truly", "rather", "but", "neither"]
)
NUMERIC_SLOT = re.compile(r"\{(n|room|time|price)\}")
FULL_WIDTH_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")

# === Vocabulary ===

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MIN_CHARACTER_COUNT = 4
MIN_WORD_COUNT = 4
SUFFIX_LENGTHS = (2, 3, 4)
MIN_SUFFIX_WORDS = 8

CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class Row(NamedTuple):
    """One line of a TSV file.

    Attributes:
        label: ``"0"`` (negative) or ``"1"`` (positive).
        text: the review, without tabs and line feeds.
        language: ``"zh"`` or ``"en"``.
    """

    label: str
    text: str
    language: str


class _Plan(NamedTuple):
    """What one row has to be."""

    kind: str
    decorations: frozenset[str]
    mislabelled: bool


def _fill(rng: random.Random, code: str, template: str) -> str:
    """Fills the slots of a neutral sentence."""
    return re.sub(r"\{(\w+)\}", lambda match: FILLERS[code][match[1]](rng), template)


def _gradable_clause(
    rng: random.Random,
    language: Language,
    domain: Domain,
    aspect: Aspect,
    *,
    positive: bool,
    negated: bool,
) -> str:
    """A clause about one aspect; ``positive`` is its meaning, negation included."""
    if negated:
        usual = positive is (rng.random() > UNUSUAL_NEGATION_SHARE)
        form = rng.choice(language.denied_bad_forms if usual else language.denied_good_forms)
    else:
        form = rng.choice(language.good_forms if positive else language.bad_forms)
    praise = positive is not negated
    first, second = rng.sample(aspect.good if praise else aspect.bad, 2)
    share = NEGATED_ANY_SUBJECT_SHARE if negated else ANY_SUBJECT_SHARE
    if "{b}" not in form and rng.random() < share:
        first = rng.choice(language.any_good if praise else language.any_bad)
    return _clause(form, domain, aspect, first, second)


def _clause(form: str, domain: Domain, aspect: Aspect, first: str, second: str = "") -> str:
    """Fills one clause form."""
    singular, plural = ("was", "were") if domain.past else ("is", "are")
    be = plural if aspect.plural else singular
    return form.format(s=aspect.subject, be=be, a=first, b=second)


def _second_clause(
    rng: random.Random, language: Language, domain: Domain, aspect: Aspect, *, positive: bool
) -> str:
    """One more clause about an aspect that was just named."""
    again = replace(aspect, subject=aspect.pronoun)
    negated = rng.random() < 0.4
    return _gradable_clause(rng, language, domain, again, positive=positive, negated=negated)


def _plain_clause(
    rng: random.Random, language: Language, domain: Domain, aspect: Aspect, *, positive: bool
) -> str:
    """A clause without negation: mostly gradable words, else a strong word or an event."""
    choice = rng.random()
    if choice < 0.2:
        return rng.choice(domain.good_events if positive else domain.bad_events)
    if choice < 0.4:
        word = rng.choice(language.strong_good if positive else language.strong_bad)
        return _clause(rng.choice(language.strong_forms), domain, aspect, word)
    return _gradable_clause(rng, language, domain, aspect, positive=positive, negated=False)


def _any_clause(
    rng: random.Random,
    language: Language,
    domain: Domain,
    aspect: Aspect,
    *,
    positive: bool,
    negation_share: float,
) -> str:
    """A clause that is negated with probability ``negation_share``."""
    if rng.random() < negation_share:
        return _gradable_clause(rng, language, domain, aspect, positive=positive, negated=True)
    return _plain_clause(rng, language, domain, aspect, positive=positive)


def _verdicts(rng: random.Random, language: Language, count: int, *, positive: bool) -> list[str]:
    """Different closing judgements; only the last can be a question."""
    verdicts = language.good_verdicts if positive else language.bad_verdicts
    return sorted(rng.sample(verdicts, count), key=lambda verdict: verdict[-1] in "?？")


def _capitalized(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def _joined(rng: random.Random, language: Language, clauses: Sequence[str]) -> str:
    """Joins clauses of one polarity."""
    text = clauses[0]
    for clause in clauses[1:]:
        joint = rng.choice(language.joints)
        text += joint + (_capitalized(clause) if joint == ". " else clause)
    return text


def _plain_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """One to three clauses of one polarity, without negation."""
    aspects = rng.sample(domain.aspects, rng.choice((1, 2, 2, 3)))
    clauses = [_plain_clause(rng, language, domain, each, positive=positive) for each in aspects]
    core = [_joined(rng, language, list(dict.fromkeys(clauses)))]
    if rng.random() < 0.45:
        core += _verdicts(rng, language, 1, positive=positive)
    return core


def _negated_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """One or two clauses of one polarity, of which one at least is negated."""
    first, second = rng.sample(domain.aspects, 2)
    clauses = [_gradable_clause(rng, language, domain, first, positive=positive, negated=True)]
    if rng.random() < 0.6:
        clauses.append(
            _any_clause(rng, language, domain, second, positive=positive, negation_share=0.4)
        )
        rng.shuffle(clauses)
    core = [_joined(rng, language, clauses)]
    if rng.random() < 0.15:
        core += _verdicts(rng, language, 1, positive=positive)
    return core


def _contrast_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """Two opposed clauses, of which the form lets one decide."""
    conceded, decisive = rng.sample(domain.aspects, 2)
    if rng.random() < HEDGED_SHARE:
        word = rng.choice(conceded.bad if positive else conceded.good)
        form = rng.choice(language.conceded_bad_forms if positive else language.conceded_good_forms)
        x = _clause(form, domain, conceded, word)
    else:
        negated = rng.random() < 0.1
        x = _gradable_clause(
            rng, language, domain, conceded, positive=not positive, negated=negated
        )
    inner, last = _verdicts(rng, language, 2, positive=positive)
    if rng.random() < 0.35:
        y = inner
    else:
        y = _any_clause(rng, language, domain, decisive, positive=positive, negation_share=0.1)
    core = [rng.choice(language.contrast_forms).format(x=x, y=y)]
    if rng.random() < 0.2:
        core.append(last)
    return core


def _weighed_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool, ambiguous: bool
) -> list[str]:
    """Praise and criticism side by side; a verdict decides unless ``ambiguous``."""
    praised, criticized = rng.sample(domain.aspects, 2)
    praise = _plain_clause(rng, language, domain, praised, positive=True)
    criticism = _plain_clause(rng, language, domain, criticized, positive=False)
    if ambiguous:
        return [rng.choice(language.ambiguous_forms).format(p=praise, c=criticism)]
    first, second = _verdicts(rng, language, 2, positive=positive)
    return [rng.choice(language.weighed_forms).format(p=praise, c=criticism, v=first), second]


def _short_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """One clause or verdict within the bounds of a very short row, its last mark included."""
    least, greatest = language.short_length
    while True:
        if rng.random() < 0.2:
            text = _verdicts(rng, language, 1, positive=positive)[0]
        else:
            aspect = rng.choice(domain.aspects)
            text = _any_clause(
                rng, language, domain, aspect, positive=positive, negation_share=0.25
            )
        length = len(text.split()) if language.space else len(text) + 1
        if least <= length <= greatest:
            return [text]


def _long_core(
    rng: random.Random, language: Language, domain: Domain, *, positive: bool
) -> list[str]:
    """Many sentences: most aspects share the row's polarity, one or two oppose it."""
    length = min(rng.randint(*language.long_length) for _ in range(2))
    opposed = rng.choice(domain.aspects)
    neutral = rng.sample(domain.details, len(domain.details))
    core = [_fill(rng, language.code, rng.choice(domain.openers))]
    while sum(map(len, core)) < length:
        for aspect in rng.sample(domain.aspects, len(domain.aspects)):
            opinion = positive is not (aspect is opposed)
            clause = _any_clause(
                rng, language, domain, aspect, positive=opinion, negation_share=0.2
            )
            if clause.startswith(aspect.subject) and rng.random() < 0.6:
                more = _second_clause(rng, language, domain, aspect, positive=opinion)
                clause = _joined(rng, language, (clause, more))
            if clause not in core and sum(map(len, core)) < length:
                core.append(clause)
                if neutral and rng.random() < 0.35:
                    core.append(_fill(rng, language.code, neutral.pop()))
    core += _verdicts(rng, language, 1, positive=positive)
    return core


def _core(
    rng: random.Random, language: Language, domain: Domain, kind: str, *, positive: bool
) -> list[str]:
    """The sentences that carry the sentiment, without their end marks."""
    if kind in ("weighed", "ambiguous"):
        return _weighed_core(
            rng, language, domain, positive=positive, ambiguous=kind == "ambiguous"
        )
    make = {
        "plain": _plain_core,
        "negated": _negated_core,
        "contrast": _contrast_core,
        "short": _short_core,
        "long": _long_core,
    }[kind]
    return make(rng, language, domain, positive=positive)


def _with_neutral_sentences(
    rng: random.Random,
    language: Language,
    domain: Domain,
    core: list[str],
    plan: _Plan,
) -> list[str]:
    """Adds sentences without sentiment before and after the core."""

    def quoting(opening: str, closing: str) -> str:
        name = opening + rng.choice(domain.quoted) + closing
        return _fill(rng, language.code, domain.quoting.replace("{quoted}", name))

    before, after = [], []
    if "full_width_digits" in plan.decorations:
        numeric = [each for each in domain.openers + domain.details if NUMERIC_SLOT.search(each)]
        before.append(_fill(rng, language.code, rng.choice(numeric)))
    elif plan.kind != "long" and rng.random() < OPENER_SHARE:
        before.append(_fill(rng, language.code, rng.choice(domain.openers)))
    if plan.kind != "long" and rng.random() < DETAIL_SHARE:
        after.append(_fill(rng, language.code, rng.choice(domain.details)))
    if "foreign" in plan.decorations:
        after.append(_fill(rng, language.code, rng.choice(domain.foreign)))
    if "accented" in plan.decorations:
        before.append(_fill(rng, language.code, rng.choice(domain.accented)))
    if "curly_quotes" in plan.decorations:
        rng.choice((before, after)).append(quoting("“", "”"))
    if "unclosed_quote" in plan.decorations:
        rng.choice((before, after)).append(quoting('"', ""))
    if "quoted_start" in plan.decorations:
        before.insert(0, quoting('"', '"'))
    return [*before, *core, *after]


def _closed(
    rng: random.Random, language: Language, sentences: Sequence[str], *, ellipsis: bool
) -> list[str]:
    """Gives each sentence its end mark and a capital."""
    closed = []
    for number, sentence in enumerate(sentences, start=1):
        end = rng.choice(language.ends if number == len(sentences) else language.breaks)
        if number == len(sentences) and ellipsis:
            end = "……"
        elif sentence[-1] in "?？":
            end = ""
        closed.append(_capitalized(sentence) + end)
    return closed


def _emoji(rng: random.Random, *, positive: bool, sequence: bool) -> str:
    """An emoji in keeping with the sentiment, or a neutral one."""
    if sequence:
        if rng.random() < NEUTRAL_SEQUENCE_SHARE:
            return rng.choice(NEUTRAL_SEQUENCES)
        return rng.choice(GOOD_SEQUENCES if positive else BAD_SEQUENCES)
    if rng.random() < RARE_EMOJI_SHARE:
        return rng.choice(RARE_EMOJI)
    return rng.choice(GOOD_EMOJI if positive else BAD_EMOJI)


def _recased(rng: random.Random, text: str) -> str:
    """Shouts one word, or all of them, or drops the capitals."""
    choice = rng.random()
    if choice < 0.2:
        return text.lower()
    if choice < 0.3:
        return text.upper()
    words = list(re.finditer(r"\b[A-Za-z]{3,}\b", text))
    word = rng.choice([each for each in words if each[0].lower() in SHOUTED] or words)
    return text[: word.start()] + word[0].upper() + text[word.end() :]


def _text(rng: random.Random, code: str, plan: _Plan, *, positive: bool) -> str:
    """The text of one row."""
    language = LANGUAGES[code]
    domain = rng.choice(language.domains)
    sentences = _core(rng, language, domain, plan.kind, positive=positive)
    if plan.kind != "short":
        sentences = _with_neutral_sentences(rng, language, domain, sentences, plan)
    sentences = _closed(rng, language, sentences, ellipsis="ellipsis" in plan.decorations)
    for decoration in ("emoji", "emoji_sequence"):
        if decoration in plan.decorations:
            emoji = _emoji(rng, positive=positive, sequence=decoration == "emoji_sequence")
            place = rng.randrange(len(sentences))
            sentences[place] += rng.choice(("", language.space)) + emoji
    text = language.space.join(sentences)
    if "casing" in plan.decorations:
        text = _recased(rng, text)
    if "full_width_digits" in plan.decorations:
        text = text.translate(FULL_WIDTH_DIGITS)
    return text


def _plans(rng: random.Random, code: str, size: int) -> list[_Plan]:
    """Plans for ``size`` rows of one language and label, with exact shares of everything."""
    kinds = [kind for kind, share in KIND_SHARES[code].items() for _ in range(round(share * size))]
    kinds += ["plain"] * (size - len(kinds))
    decorations: list[set[str]] = [set() for _ in kinds]
    decorable = [number for number, kind in enumerate(kinds) if kind != "short"]
    for group in DECORATION_SHARES[code]:
        free = rng.sample(decorable, len(decorable))
        for decoration, share in group.items():
            for _ in range(round(share * size)):
                decorations[free.pop()].add(decoration)
    clear = [number for number, kind in enumerate(kinds) if kind != "ambiguous"]
    mislabelled = set(rng.sample(clear, round(MISLABELLED_SHARE * size)))
    return [
        _Plan(kind, frozenset(decorations[number]), number in mislabelled)
        for number, kind in enumerate(kinds)
    ]


def leakage_key(text: str) -> str:
    """What two texts must not have in common: their letters and digits, case folded.

    Spaces, punctuation, emoji and the width of characters make no difference.
    """
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def generate_rows() -> dict[str, list[Row]]:
    """Makes all rows.

    Returns:
        The rows of each split of ``SPLIT_SIZES``. No two rows of any splits have the same
        ``leakage_key``; the languages and the labels are balanced.
    """
    rng = random.Random(SEED)
    seen: set[str] = set()
    splits = {}
    for split, size in SPLIT_SIZES.items():
        rows = []
        for code in LANGUAGES:
            for label, opposite in ((NEGATIVE, POSITIVE), (POSITIVE, NEGATIVE)):
                for plan in _plans(rng, code, size // 4):
                    text = _text(rng, code, plan, positive=label == POSITIVE)
                    while leakage_key(text) in seen:
                        text = _text(rng, code, plan, positive=label == POSITIVE)
                    seen.add(leakage_key(text))
                    rows.append(Row(opposite if plan.mislabelled else label, text, code))
        rng.shuffle(rows)
        splits[split] = rows
    return splits


def _is_punctuation(character: str) -> bool:
    """Whether BERT splits at the character: ASCII symbols count, other symbols do not."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def _is_cjk(character: str) -> bool:
    """Whether BERT takes the character for a word of its own."""
    return any(first <= ord(character) <= last for first, last in CJK_BLOCKS)


def pretokenize(text: str) -> list[str]:
    """Splits a text into words as uncased BERT does before WordPiece.

    Source: ``BasicTokenizer`` in google-research/bert, ``tokenization.py``.

    Args:
        text: any text.

    Returns:
        Lower-cased words without accents and control characters; each punctuation mark and
        each CJK character is a word.
    """
    spaced = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif _is_cjk(character):
            spaced.append(f" {character} ")
        elif category not in ("Cc", "Cf") and character != "\ufffd":
            spaced.append(character)
    words = []
    for chunk in "".join(spaced).split():
        bare = "".join(
            character
            for character in unicodedata.normalize("NFD", chunk.lower())
            if unicodedata.category(character) != "Mn"
        )
        marked = "".join(f" {each} " if _is_punctuation(each) else each for each in bare)
        words += marked.split()
    return words


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """Makes a WordPiece vocabulary out of counts.

    Args:
        texts: the texts to count in.

    Returns:
        The special tokens; the characters that are seen often enough at the start of a word,
        and (with ``##``) inside of one; frequent words; endings that many words share.
        Characters seen less often stay unknown.
    """
    words = Counter(word for text in texts for word in pretokenize(text))
    characters: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for word, count in words.items():
        characters[word[0]] += count
        for character in word[1:]:
            characters["##" + character] += count
        endings.update("##" + word[-length:] for length in SUFFIX_LENGTHS if len(word) > length + 1)
    frequent = [word for word, count in words.items() if len(word) > 1 and count >= MIN_WORD_COUNT]
    return [
        *SPECIAL_TOKENS,
        *sorted(piece for piece, count in characters.items() if count >= MIN_CHARACTER_COUNT),
        *sorted(frequent, key=lambda word: (-words[word], word)),
        *sorted(piece for piece, count in endings.items() if count >= MIN_SUFFIX_WORDS),
    ]


def write_sample(folder: Path) -> None:
    """Writes the three TSV files and the vocabulary.

    Args:
        folder: an existing folder; files of these names are overwritten.
    """
    splits = generate_rows()
    for split, rows in splits.items():
        lines = [HEADER, *("\t".join(row) for row in rows)]
        _write_lines(folder / f"{split}.tsv", lines)
    _write_lines(folder / "vocab.txt", build_vocabulary(row.text for row in splits["train"]))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes UTF-8 lines that end with a line feed on every platform."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))


if __name__ == "__main__":
    write_sample(Path(__file__).parent)
