"""Words in scripts with and without blanks between them, and the quality rules that count them."""

from __future__ import annotations

import pytest

from q3edge.calibration.data.cleaning import clean_text, passages
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.duplicates import jaccard, shingles
from q3edge.calibration.data.quality import prose_rejection
from q3edge.calibration.data.tagging import tag_document
from q3edge.calibration.data.words import word_count, words_of

# The first article of the Universal Declaration of Human Rights (United Nations, public domain).
ARTICLE_1 = {
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
    "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। "
    "उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "Bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং বুদ্ধি আছে; "
    "সুতরাং সকলেরই একে অপরের প্রতি ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিত।",
}


@pytest.mark.parametrize("language", ARTICLE_1)
def test_q1_prose_is_kept_in_every_script(language: str) -> None:
    assert prose_rejection(ARTICLE_1[language]) is None


@pytest.mark.parametrize("language", ARTICLE_1)
def test_q1_repetition_is_seen_in_every_script(language: str) -> None:
    half = ARTICLE_1[language][: len(ARTICLE_1[language]) // 2]
    assert prose_rejection(" ".join([half] * 5)) == "repetitive"


@pytest.mark.parametrize("language", ARTICLE_1)
def test_q1_as_many_words_are_counted_as_an_english_text_would_have(language: str) -> None:
    assert 0.5 < word_count(words_of(ARTICLE_1[language])) / word_count(words_of(ARTICLE_1["English"])) < 1.5


@pytest.mark.parametrize("language", ARTICLE_1)
def test_q1_near_duplicates_are_found_in_every_script(language: str) -> None:
    one, *others = (shingles(words_of(text)) for text in (ARTICLE_1[language], ARTICLE_1[language] + "!", "x y z"))
    assert [jaccard(one, other) for other in others] == [1, 0]


def test_q1_vowel_signs_do_not_cut_words() -> None:
    assert words_of("नमस्ते दुनिया, Zoë") == ["नमस्ते", "दुनिया", "zoë"]


@pytest.mark.parametrize("text", ["a" + " " * 400_000 + "b", "1 " * 200_000, "$" * 400_000, "5" + " " * 400_000])
def test_r10_blanks_and_signs_without_end_take_linear_time(text: str) -> None:
    """With quadratic patterns this takes an hour."""
    assert clean_text(text) == text.strip()
    tag_document(Document(0, 1, text[:50_000]))


def test_q8_a_long_text_is_cut_in_linear_time() -> None:
    text = "word " * 1_000_000
    assert "".join(part.text for part in passages(Document(0, 1, text), 2000)).replace(" ", "") == text.replace(" ", "")
