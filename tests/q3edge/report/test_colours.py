"""The page's colours: text can be read on every ground, in light and in dark. Needs no browser."""

from __future__ import annotations

from q3edge.report.page.page import render_page
from tests.helpers.reports import make_report


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    css = render_page(make_report()).partition("<style>")[2].partition("</style>")[0]
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    for colours in (_colours(light), _colours(dark)):
        for text in ("ink", "muted", "accent"):
            for ground in ("page", "card", "wash", "faint"):
                assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def _colours(css: str) -> dict[str, str]:
    block = css[css.index("--page") : css.index("}", css.index("--page"))]
    pairs = (entry.split(":") for entry in block.split(";") if ":" in entry)
    return {name.strip().removeprefix("--"): value.strip() for name, value in pairs}


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours written #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
