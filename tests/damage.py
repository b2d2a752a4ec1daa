"""Damaged bytes and odd values, for the tests of everything that reads a file."""

import os

import pytest
from hypothesis import settings, strategies as st


def fuzz(test):
    """Try many inputs; the nightly tier sets 10,000 of them."""
    count = int(os.environ.get("EMOLENS_FUZZ_EXAMPLES", "200"))
    return pytest.mark.fuzz(settings(max_examples=count)(test))


PLACES = st.integers(0, 700) | st.integers(-700, -1) | st.integers(0, 10**6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def flipped(data, places):
    """The bytes with some bits turned, most of them where files keep their structure."""
    damaged = bytearray(data)
    for place, bit in places:
        damaged[place % len(damaged)] ^= 1 << bit
    return bytes(damaged)


def random_bytes(whole):
    """The file's beginning, then anything."""
    drawn = st.tuples(st.integers(0, 64), st.binary(max_size=400))
    return drawn.map(lambda start_data: whole[: start_data[0]] + start_data[1])


def cut_short(whole):
    """A part of the file from its beginning."""
    shares = st.floats(0, 1, exclude_max=True)
    return shares.map(lambda share: whole[: int(share * len(whole))])


def turned_bits(whole):
    """The file with one to six bits turned."""
    places = st.lists(st.tuples(PLACES, st.integers(0, 7)), min_size=1, max_size=6)
    return places.map(lambda drawn: flipped(whole, drawn))


DAMAGES = [
    random_bytes,
    cut_short,
    turned_bits,
]  # a sound file's bytes to a strategy of damaged ones
