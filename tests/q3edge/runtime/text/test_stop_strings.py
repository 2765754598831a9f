"""Stop strings end a text where a search of the whole would, and nothing of them is given away (row L24)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.answer_text import AnswerText
from q3edge.runtime.text.stop_strings import StopStrings
from q3edge.runtime.text.thinking import PlainText
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import build_tokenizer

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


TOKENIZER = Tokenizer(build_tokenizer(), "tokenizer.json", 320)
WORDS = st.lists(
    st.sampled_from(["the", " cat", " sat", " on", "\u00e9", "\u4e2d\u6587", "\U0001f600", " ", "a"]), max_size=14
)


@settings(max_examples=150)
@given(WORDS.map("".join), st.lists(WORDS.map("".join).filter(bool), min_size=1, max_size=3), st.data())
def test_l24_no_part_of_a_stop_string_shows_however_a_text_is_cut_into_tokens(
    text: str, strings: list[str], data: st.DataObject
) -> None:
    ids_of = {content: token for token, content in TOKENIZER.token_bytes().items()}
    raw = text.encode()
    answer, read, start = AnswerText(PlainText(TOKENIZER), strings), b"", 0
    while start < len(raw) and not answer.stopped:
        fitting = [end for end in range(start + 1, len(raw) + 1) if raw[start:end] in ids_of]
        end = data.draw(st.sampled_from(fitting))
        shown = "".join(piece.text for piece in answer.push(ids_of[raw[start:end]]))
        read, start = read + raw[start:end], end
        whole = read.decode(errors="ignore")  # a character whose bytes have not all come is none yet
        first = min((place for string in strings if (place := whole.find(string)) >= 0), default=None)
        assert answer.stopped == (first is not None)
        assert shown == answer.answer[len(answer.answer) - len(shown) :]
        if first is None:
            assert whole.startswith(answer.answer)
            assert any(string.startswith(whole[len(answer.answer) :]) for string in strings)
        else:
            assert answer.answer == whole[:first]
    if not answer.stopped:
        list(answer.finish())
        assert answer.answer == text
