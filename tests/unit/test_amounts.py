"""Amounts of Wei: what is printed is exact and is taken again, and what may mean two amounts is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allowance.amounts import WeiFormField, parse_wei, wei_text
from allowance.types import MAX_WEI, BadInputError

TAO = 10**18
amounts = st.integers(0, MAX_WEI) | st.integers(0, 10**30) | st.integers(0, 77).map(lambda zeros: 10**zeros)


@given(amounts)
def test_what_is_printed_is_taken_as_the_same_amount(wei: int) -> None:
    field = WeiFormField(required=False)
    for text in (wei_text(wei), wei_text(wei).replace(" ", "").lower(), str(wei), f"{wei:_}"):
        assert parse_wei(text) == field.clean(text) == wei
    assert field.clean(field.prepare_value(wei)) == wei


@given(amounts)
def test_a_unit_says_what_it_says(wei: int) -> None:
    number, unit = wei_text(wei).split()
    assert Fraction(number) * {"Wei": 1, "TAO": TAO}[unit] == wei
    assert (unit == "Wei") == (wei < 10**9)


@given(st.integers(0, 10**40), st.integers(-50, 50), st.sampled_from(["", "Wei", "TAO"]))
def test_an_exponent_is_that_of_ten(number: int, exponent: int, unit: str) -> None:
    text, exact = (
        f"{number}e{exponent} {unit}",
        number * Fraction(10) ** exponent * (TAO if unit == "TAO" else 1),
    )
    if exact == int(exact) and exact <= MAX_WEI:
        assert parse_wei(text) == exact
    else:
        with pytest.raises(BadInputError):
            parse_wei(text)


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0 Wei"),
        (25, "25 Wei"),
        (10**9 - 1, "999999999 Wei"),
        (10**9, "0.000000001 TAO"),
        (10**16, "0.01 TAO"),
        (TAO, "1 TAO"),
        (TAO + 1, "1.000000000000000001 TAO"),
        (120 * TAO, "120 TAO"),
    ],
)
def test_an_amount_is_short_where_it_is_round(wei: int, text: str) -> None:
    assert wei_text(wei) == text


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("1e16", 10**16),
        ("1E16", 10**16),
        ("1e+16", 10**16),
        ("1.5e16 wei", 15 * 10**15),
        ("0.01tao", 10**16),
        (" 0.01 TAO ", 10**16),
        ("10_000", 10_000),
        ("10_000 Wei", 10_000),
        ("1000e-3", 1),
        ("0.0 TAO", 0),
        ("0e999", 0),
        (str(MAX_WEI), MAX_WEI),
        (f"{'0' * 5000}7", 7),
    ],
)
def test_people_may_write_it_in_several_ways(text: str, wei: int) -> None:
    assert parse_wei(text) == wei


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.000", "may stand for thousands or for decimals"),
        ("1.5", "may stand for thousands or for decimals"),
        ("1.0 Wei", "Wei are whole"),
        ("10,000", "A comma may stand for thousands or for decimals"),
        ("0,01 TAO", "A comma may stand"),
        ("1.5e0", "is not a whole number of Wei"),
        ("0.0000000000000000001 TAO", "is not a whole number of Wei"),
        (str(MAX_WEI + 1), "more than 2"),
        ("1e78", "more than 2"),
        ("1e60 TAO", "more than 2"),
        ("9" * 5000, "more than 2"),
        *(
            (text, "is not an amount")
            for text in ("", "-1", "+1", "0x10", "1 000", "1.000.000", "1e", "e3", "1_", "_1", "1__0")
        ),
        *(
            (text, "is not an amount")
            for text in ("nan", "inf", "many", "²", "٣", "1e1000", "1 ETH", ".5 TAO", "1 TAO 5 Wei")
        ),
    ],
)
def test_what_is_no_amount_or_may_be_two_is_refused_with_the_way_to_write_it(text: str, why: str) -> None:
    with pytest.raises(BadInputError, match=why) as error:
        parse_wei(text)
    assert str(error.value).endswith("Write it as 10_000 Wei, 1e16 or 0.01 TAO.")
