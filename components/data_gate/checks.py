"""What DataGate and TokenGate check, and the limits: the one place for both.

Plain Python, so that the command line can read limits without loading a framework.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bert_tfx.schema.errors import DataRefused, InputError

WARN = "warn"
STOP = "stop"
SEVERITIES = (WARN, STOP)

DATA = "DataGate"
TOKENS = "TokenGate"

REPORT_FILE = "report.json"
# Beside it, in DataGate's report: the `source_row` of each eval row that leaks, one a line.
LEAKED_EVAL_ROWS_FILE = "leaked_eval_rows.txt.gz"
# The report's property that names the statistics it accepted, so that later runs find them.
STATISTICS_ID = "statistics_id"
BASELINE = "the last accepted run"
# What is wrong whatever anyone allows.
SCHEMA = "schema"
ROWS = "rows"
LABELS = "labels"

LEAKAGE = "leakage"
DUPLICATES = "duplicates"
CONTRADICTIONS = "contradictions"
CLASS_BALANCE = "class_balance"
LABEL_SKEW = "label_skew"
LABEL_DRIFT = "label_drift"
TRUNCATED = "truncated"
UNKNOWN = "unknown"
LENGTH_SKEW = "length_skew"
UNKNOWN_SKEW = "unknown_skew"
LENGTH_DRIFT = "length_drift"
UNKNOWN_DRIFT = "unknown_drift"

# For each check the value beyond which the run warns or stops, where it does.
Limits = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """A value beyond which something is wrong.

    Attributes:
        value: In [0, 1].
        severity: `warn` or `stop`.
    """

    value: float
    severity: str


@dataclasses.dataclass(frozen=True)
class Check:
    """A check whose limits can be moved.

    Attributes:
        gate: The component that makes it.
        about: What its value is, in [0, 1], in a sentence.
        limits: The default limits, the milder one first.
        at_least: Whether values below the limit are wrong; else those above it.
    """

    gate: str
    about: str
    limits: tuple[Limit, ...]
    at_least: bool = False


CHECKS: Mapping[str, Check] = {
    # One leaked row in a hundred moves the score by a hundredth at most. Where most rows to
    # evaluate on were trained on, it is the same file or a mixed-up one, and the score means
    # nothing. ChnSentiCorp as published has 0.28.
    LEAKAGE: Check(
        DATA,
        "Share of the eval (or test) rows whose text stands in train too, where case, width and "
        "space, and the order of a pair, do not count.",
        (Limit(0.01, WARN), Limit(0.5, STOP)),
    ),
    # Repeated rows weigh more than others; that may be wanted, and spoils no model by itself.
    # ChnSentiCorp as published has 0.14.
    DUPLICATES: Check(
        DATA,
        "Share of a split's rows that repeat an earlier row of it, where case, width and space do "
        "not count.",
        (Limit(0.05, WARN),),
    ),
    # Each such row is wrong or cannot be told by its text. Published sets have up to 0.008; at a
    # fifth, files or label columns were mixed up.
    CONTRADICTIONS: Check(
        DATA,
        "Share of a split's rows whose text carries another label in the split, or of the eval (or "
        "test) rows whose text carries another label in train.",
        (Limit(0.001, WARN), Limit(0.2, STOP)),
    ),
    # A tenth of the rows where there are two labels: from there on accuracy says little.
    CLASS_BALANCE: Check(
        DATA,
        "Rows of a split's rarest label, divided by what it would have were all labels alike "
        "frequent.",
        (Limit(0.2, WARN),),
        at_least=True,
    ),
    LABEL_SKEW: Check(
        DATA,
        "Largest difference of a label's share between train and eval (L-infinity).",
        (Limit(0.1, WARN),),
    ),
    LABEL_DRIFT: Check(
        DATA,
        "Largest difference of a label's share between a split and that of the last accepted run "
        "(L-infinity).",
        (Limit(0.1, WARN),),
    ),
    # What is cut may be what decides; a longer max_length costs time only.
    TRUNCATED: Check(
        TOKENS,
        "Share of a split's rows that are longer than max_length and lose tokens.",
        (Limit(0.1, WARN),),
    ),
    # A vocabulary that fits leaves less than a hundredth. Where half of the tokens are unknown, it
    # is that of another language, and the model reads next to nothing.
    UNKNOWN: Check(
        TOKENS,
        "Share of a split's tokens that the vocabulary does not have ([UNK]).",
        (Limit(0.05, WARN), Limit(0.5, STOP)),
    ),
    # TFDV compares histograms of ten buckets: samples of 80 rows of the same texts lie up to 0.1
    # apart, and a long row that only one side has adds as much. Phrases and sentences (the train
    # and dev files of SST-2) lie 0.26 apart.
    LENGTH_SKEW: Check(
        TOKENS,
        "Jensen-Shannon divergence of the rows' numbers of tokens between train and eval.",
        (Limit(0.2, WARN),),
    ),
    UNKNOWN_SKEW: Check(
        TOKENS,
        "Jensen-Shannon divergence of the rows' numbers of unknown tokens between train and eval.",
        (Limit(0.1, WARN),),
    ),
    LENGTH_DRIFT: Check(
        TOKENS,
        "Jensen-Shannon divergence of the rows' numbers of tokens between a split and that of the "
        "last accepted run.",
        (Limit(0.2, WARN),),
    ),
    UNKNOWN_DRIFT: Check(
        TOKENS,
        "Jensen-Shannon divergence of the rows' numbers of unknown tokens between a split and that "
        "of the last accepted run.",
        (Limit(0.1, WARN),),
    ),
}


def parse_limits(given: str | Mapping[str, Any] = "", *, where: str = "limits") -> Limits:
    """Returns the limits of all checks: the defaults, and what was given in their place.

    Args:
        given: `NAME=VALUE` or `NAME=VALUE:SEVERITY`, separated by commas; or, from a JSON file, a
            value for each name, or an object of values by severity. Without a severity it is
            `warn`. A given limit takes the place of the default one of the same severity; one that
            no value can pass (1, or 0 for `class_balance`) puts it out of force.
        where: What a message calls the source of `given`.

    Raises:
        InputError: If a check is unknown or given twice, or a value is not a number in [0, 1].
    """
    limits = {
        name: {limit.severity: limit.value for limit in check.limits}
        for name, check in CHECKS.items()
    }
    seen = set()
    for name, severity, value in _entries(given, where):
        if name not in CHECKS:
            raise InputError(
                f"{where}: there is no check {name!r}; known are {', '.join(CHECKS)}. Expected "
                "NAME=VALUE or NAME=VALUE:SEVERITY, for example leakage=0.05:stop"
            )
        if severity not in SEVERITIES:
            raise InputError(
                f"{where}, {name}: a severity is {WARN} (the run goes on) or {STOP}. Received: "
                f"{severity!r}"
            )
        if (name, severity) in seen:
            raise InputError(f"{where}, {name}: the limit to {severity} is given twice")
        seen.add((name, severity))
        limits[name][severity] = _number(name, value, where)
    return limits


def _entries(given: str | Mapping[str, Any], where: str) -> list[tuple[str, Any, Any]]:
    """Returns names, severities and values as they were given."""
    if isinstance(given, str):
        entries: list[tuple[str, Any, Any]] = []
        for part in filter(None, map(str.strip, given.split(","))):
            name, _, rest = map(str.strip, part.partition("="))
            value, colon, severity = map(str.strip, rest.partition(":"))
            entries.append((name, severity if colon else WARN, value))
        return entries
    if not isinstance(given, Mapping):
        raise InputError(
            f"{where}: expected an object of limits, for example "
            f'{{"leakage": {{"stop": 0.05}}, "truncated": 0.5}}. Received: {given!r}'
        )
    return [
        (name, severity, number)
        for name, value in given.items()
        for severity, number in (value if isinstance(value, Mapping) else {WARN: value}).items()
    ]


def _number(name: str, value: Any, where: str) -> float:
    try:
        # True is a number to Python.
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise InputError(
            f"{where}, {name}: expected a number from 0 to 1, for example {name}=0.05:stop. "
            f"{CHECKS[name].about} Received: {value!r}"
        )
    return number


def limits_json(limits: Limits, gate: str) -> str:
    """Returns a gate's own limits as JSON that `parse_limits` reads, equal for equal limits.

    They take part in the gate's cache key, and the other gate's do not.
    """
    own = {name: dict(limits[name]) for name, check in CHECKS.items() if check.gate == gate}
    return json.dumps(own, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        name: Of the check.
        splits: The splits it looked at: the one, or the two that it compared.
        value: What is held against the limit.
        limit: The limit that was passed, the severest of them; where none was, the mildest.
        severity: That limit's.
        passed: Whether no limit was passed.
        count: Rows (for `schema`: anomalies, for `labels`: labels) that are at fault.
        exact: Those of them that are the same byte for byte, where that is told apart.
        rows: Rows that were looked at.
        message: All of it in sentences.
        examples: Up to ten places: `row` and, where another row is meant too, `other_row`; `text`
            where the report may hold text.
    """

    name: str
    splits: tuple[str, ...]
    value: float
    limit: float | None
    severity: str | None
    passed: bool
    count: int | None
    rows: int
    message: str
    exact: int | None = None
    examples: Sequence[Mapping[str, str]] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the result as it stands in the report; None says that a field does not apply."""
        return dataclasses.asdict(self) | {"value": round(self.value, 6)}


def judge(
    name: str,
    splits: Sequence[str],
    value: float,
    limits: Limits,
    *,
    rows: int,
    found: str,
    advice: str,
    count: int | None = None,
    exact: int | None = None,
    examples: Sequence[Mapping[str, str]] = (),
) -> Result:
    """Holds a value against a check's limits.

    Args:
        name: A key of `CHECKS`.
        splits: See `Result`.
        value: See `Result`.
        limits: What `parse_limits` returned.
        rows: See `Result`.
        found: Names the splits and the figures: a sentence without its end.
        advice: What to do where a limit is passed: a sentence.
        count: See `Result`.
        exact: See `Result`.
        examples: See `Result`.
    """
    at_least = CHECKS[name].at_least
    own = [
        Limit(limits[name][severity], severity)
        for severity in SEVERITIES
        if severity in limits[name]
    ]
    passed_ones = [
        limit for limit in own if (value < limit.value if at_least else value > limit.value)
    ]
    limit = passed_ones[-1] if passed_ones else own[0]
    relation = "at least" if at_least else "at most"
    first = examples[0] if examples else {}
    place = " and ".join(filter(None, (first.get("row"), first.get("other_row"))))
    message = f"{found} (limit: {relation} {limit.value:g}){f', first {place}' if place else ''}"
    if passed_ones:
        message += f". {advice}"
    return Result(
        name=name,
        splits=tuple(splits),
        value=value,
        limit=limit.value,
        severity=limit.severity,
        passed=not passed_ones,
        count=count,
        rows=rows,
        message=message,
        exact=exact,
        examples=examples,
    )


def conclude(gate: str, logger: logging.Logger, results: Sequence[Result]) -> None:
    """Logs what the checks warn of, in a line each, and stops the run where they must.

    Args:
        gate: Names itself in the messages.
        logger: Takes the warnings.
        results: Of all checks.

    Raises:
        DataRefused: If a check that stops the run did not pass; the message lists them all.
    """
    failed = [result for result in results if not result.passed]
    for result in failed:
        if result.severity == WARN:
            logger.warning("%s warns, %s: %s", gate, result.name, result.message)
    stops = [result for result in failed if result.severity == STOP]
    if not stops:
        return
    lines = [f"  - {result.message}" for result in stops]
    if movable := [result.name for result in stops if result.name in CHECKS]:
        lines.append(
            f"Where the data is as it should be, move the limit: --limits {movable[0]}=VALUE:stop"
        )
    raise DataRefused(f"{gate} stopped the run before training:\n" + "\n".join(lines))


def report_json(splits: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Returns a gate's report as JSON: `splits` (facts about each) and `checks`."""
    report = {"splits": splits, "checks": [result.to_json() for result in results]}
    return json.dumps(report, indent=1, ensure_ascii=False)
