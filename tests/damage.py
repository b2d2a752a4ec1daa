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
