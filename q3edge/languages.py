"""Language detection: by script, and for Latin script by the most common small words.

A table instead of a library: calibration only needs English told from the rest and a fair count of the rest, and
evaluation whether an answer is in the language of its question.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

UNKNOWN = "und"  # BCP 47: undetermined
_SCRIPTS = {
    "CJK": "zh", "HANGUL": "ko", "CYRILLIC": "ru", "GREEK": "el", "HEBREW": "he", "ARABIC": "ar", "DEVANAGARI": "hi",
    "BENGALI": "bn", "GURMUKHI": "pa", "GUJARATI": "gu", "ORIYA": "or", "TAMIL": "ta", "TELUGU": "te", "KANNADA": "kn",
    "MALAYALAM": "ml", "SINHALA": "si", "THAI": "th", "LAO": "lo", "MYANMAR": "my", "KHMER": "km", "GEORGIAN": "ka",
    "ARMENIAN": "hy", "ETHIOPIC": "am",
}  # fmt: skip
_KANA = ("HIRAGANA", "KATAKANA")
_KANA_SHARE = 0.05  # Japanese is written with Chinese characters too, but never only with them
_TELLING = {  # letters of a script that only some of its languages use
    "CYRILLIC": (("uk", "іїєґ"),),
    "ARABIC": (("ur", "ٹڈڑںے"), ("fa", "پچژگ")),
}
_TELLING_SHARE = 0.005
_SMALL_WORDS = {
    "en": "the of and to is that for with was are on in at he she it they his her from each how many has if as be you",
    "de": "der die das und ist nicht ein eine den dem mit auf für von sich wie viele sie er zu im jeden hat pro",
    "fr": "le la les des et est une un dans pour que qui du au il elle combien sur pas chaque avec ses par en de à",
    "es": "el la los las de y es una en que por para con cada cuántos su del se al más tiene no lo",
    "pt": "os de é uma em que por para com cada quantos do da na não se mais ao dos tem um no",
    "it": "il lo gli di è una che per con ogni quanti del della non nel si sono più dei alla ha un",
    "nl": "de het een van en niet is dat op met voor hoeveel elke zijn te ze hij aan er bij ook heeft",
    "sv": "och att det som är på en av för inte den med till har hur många varje om ett från de",
    "da": "og at det som er på en af for ikke den med til har hvor mange hver om et fra jeg",
    "no": "og at det som er på en av for ikke den med til har hvor mange hver om et fra jeg blir etter",
    "fi": "ja ei se että hän ovat mutta kun niin myös joka oli kuin sen tai kuinka monta",
    "pl": "na nie się że jest to jak ile każdy dla od po co przez ale są do ma",
    "cs": "na je se že to jak kolik každý pro od po ale jsou který nebo za jeho",
    "ro": "și în de la este nu cu pe pentru care din un mai fiecare câte sau sunt ale",
    "hu": "az és hogy nem is egy van ez meg hány minden csak volt mint vagy ha",
    "tr": "ve bir bu için ile da de kaç her ne çok daha olan gibi var olarak kadar değil",
    "vi": "của và là có các được một không cho người những trong bao nhiêu với mỗi anh cô ấy",
    "id": "dan yang di dengan untuk dari ini itu adalah pada tidak berapa setiap dia akan ke dalam oleh",
    "sw": "na ya wa kwa ni katika za la kila je ngapi ana yake alikuwa kutoka kama au hii cha vya",
}
_WORDS_OF = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}
_MIN_SMALL_WORDS = 0.08  # of all words; real text has a third and more
_LATIN_WORD = re.compile(r"[^\W\d_]+")


def detect_language(text: str) -> str:
    """Detect the language of most letters of `text`; returns its BCP 47 tag, or `und` (undetermined)."""
    text = unicodedata.normalize("NFKC", text)  # marks join their letters, and radicals become the characters they are
    letters = Counter({c: n for c, n in Counter(text).items() if c.isalpha()})
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[_script(letter)] += count
    kana = sum(scripts.pop(name, 0) for name in _KANA)
    if kana > _KANA_SHARE * (kana + scripts["CJK"]) and kana + scripts["CJK"] > sum(scripts.values()) / 2:
        return "ja"
    script, count = max(scripts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    for language, telling in _TELLING.get(script, ()):
        if sum(letters[c] for c in telling) > _TELLING_SHARE * count:
            return language
    return _latin_language(text) if script == "LATIN" else _SCRIPTS.get(script, UNKNOWN)


def _latin_language(text: str) -> str:
    words = Counter(_LATIN_WORD.findall(text.lower()))
    hits = {name: sum(words[word] for word in small) for name, small in _WORDS_OF.items()}
    best = max(hits, key=lambda name: hits[name])  # the first of equals: the table starts with the most likely
    return best if hits[best] > _MIN_SMALL_WORDS * sum(words.values()) else UNKNOWN


@lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    """Script of a letter: the first word of its Unicode name."""
    return unicodedata.name(letter, "").partition(" ")[0]
