"""Which language a text is in: by script, and among Latin ones by small words."""

from __future__ import annotations

import pytest

from q3edge.languages import detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The harbour was quiet in the early morning and a few boats came back with the catch of the night.", "en"),
        ("Wie viel verdient sie an jedem Tag auf dem Markt mit den Eiern?", "de"),
        ("Combien gagne-t-elle chaque jour au marché avec les œufs de ses canes ?", "fr"),
        ("¿Cuánto gana cada día en el mercado con los huevos de sus patos?", "es"),
        ("Quanto ela ganha por dia no mercado com os ovos das suas patas?", "pt"),
        ("Ile zarabia na targu każdego dnia, jeśli nie ma jajek od kaczek?", "pl"),
        ("Bu pazarda her gün ne kadar kazanıyor ve kaç yumurta satıyor?", "tr"),
        ("Mỗi ngày cô ấy bán được bao nhiêu quả trứng và kiếm được bao nhiêu?", "vi"),
        ("Сколько она зарабатывает каждый день?", "ru"),
        ("Скільки вона заробляє щодня на ринку?", "uk"),
        ("她每天在市场上赚多少钱？", "zh"),
        ("彼女は毎日市場でいくら手に入れていますか", "ja"),
        ("그녀는 매일 시장에서 얼마를 벌까요?", "ko"),
        ("كم تكسب كل يوم في السوق؟", "ar"),
        ("او هر روز در بازار چقدر پول می‌گیرد؟", "fa"),
        ("वह हर दिन बाज़ार में कितना कमाती है?", "hi"),
        ("17", "und"),
        ("Lorem", "und"),
        ("", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert detect_language(text) == language
