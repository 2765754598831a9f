"""Stop strings end a text where a search of the whole would, and nothing of them is given away (row L24)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.text.stop_strings import StopStrings

LETTERS = st.text("abc", max_size=4)


@settings(max_examples=400, deadline=None)
@given(st.lists(LETTERS, max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_l24_a_text_ends_before_the_first_stop_string(pieces: list[str], strings: list[str]) -> None:
    stops, given_away, read = StopStrings(strings), "", ""
    for piece in pieces:
        read += piece
        given_away += stops.push(piece)
        first = min((place for string in strings if (place := read.find(string)) >= 0), default=None)
        assert (stops.found is not None) == (first is not None)
        assert read[:first].startswith(given_away)
        if first is not None:
            assert given_away == read[:first]
            return
        # What could begin a stop string is held back, and nothing else.
        held = read[len(given_away) :]
        assert not held or any(string.startswith(held) for string in strings)
        assert not any(read.endswith(string[:1]) and read == given_away for string in strings if len(string) > 1)
    assert given_away + stops.finish() == read
