import argparse
import dataclasses
import re
import time

import pytest

from bert_tfx.schema.options import declare, kinds_of, option, options_of


def minutes(text):
    return 60 * int(text)


@dataclasses.dataclass(frozen=True)
class Journey:
    place: str = option("where to", name="to", names=("destination",), metavar="PLACE")
    days: int = option("how long", 3)
    cost: float | None = option("at most", None)
    train: bool = option("not by plane", False)
    return_: bool = option("and back", True, name="return", either=True)
    season: str = option("when", "summer", choices=("summer", "winter"), group="time")
    rest: int = option("minutes of it", 0, parse=minutes, metavar="MINUTES", group="time")
    bags: tuple[str, ...] = option(
        "what to carry", default_factory=tuple, kind=object, metavar="A,B"
    )
    walked: int = 0


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    declare(parser, Journey)
    declare(parser.add_argument_group("time"), Journey, "time")
    return lambda text: vars(parser.parse_args(text.split()))


def test_a_field_is_an_option(parse):
    given = parse(
        "--to Rome --days 5 --cost 10 --train --no-return --season winter --rest 2 --bags x,y"
    )
    assert given == {
        **{"to": "Rome", "days": 5, "cost": 10.0, "train": True, "return": False},
        **{"season": "winter", "rest": 120, "bags": "x,y"},
    }
    assert parse("--destination Rome")["to"] == "Rome"


def test_what_is_not_given_is_none(parse):
    assert set(parse("").values()) == {None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--days x", "argument --days: invalid int value: 'x'"),
        ("--season spring", "argument --season: invalid choice: 'spring'"),
        ("--walked 1", "unrecognized arguments: --walked 1"),
    ],
)
def test_mistakes(parse, given, message, capsys):
    with pytest.raises(SystemExit):
        parse(given)
    assert message in capsys.readouterr().err


def test_help_and_defaults():
    parser = argparse.ArgumentParser()
    declare(parser, Journey)
    told = " ".join(parser.format_help().split())
    # Python 3.13 names the value once.
    assert re.search(r"--to( PLACE)?, --destination PLACE where to", told)
    assert "--days N how long --cost X at most" in told
    assert "--season" not in told
    assert Journey("Rome") == Journey(place="Rome", days=3, bags=())
    with pytest.raises(TypeError):
        Journey()


def test_kinds_are_by_the_names_of_the_options():
    assert kinds_of(Journey) == {
        **{"to": str, "days": int, "cost": float, "train": bool, "return": bool},
        **{"season": str, "rest": int, "bags": object, "walked": int},
    }
    assert list(options_of(Journey)) == [
        *("to", "days", "cost", "train", "return", "season", "rest", "bags"),
    ]


def test_help_of_the_longest_command_is_there_at_once(command):
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        assert command("run", "--help").returncode == 0
        seconds.append(time.monotonic() - start)
    # It loads no framework, which would take some seconds.
    assert min(seconds) < 2
