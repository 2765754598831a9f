"""A report as one HTML file that needs nothing else: no network, no script. templates/report.html is the layout.

Every number stands in a <data> element whose value is the unrounded number of the JSON. Text of models and files
is escaped by Jinja and made visible by `plain_text`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from q3edge.evaluation.distance.kl_names import KL_TITLES, KL_WORDS
from q3edge.report.content import Report, Spread
from q3edge.report.numbers import STYLES, Interval
from q3edge.report.page.figures import Figures, shown_tensors
from q3edge.report.plain_text import visible
from q3edge.report.slices import slice_table
from q3edge.version import VERSION

MAX_BYTES = 1_000_000
CONTEXT, CONTINUATION = 240, 400  # characters of an example that are shown
EXAMPLES = 5  # of each variant
_CONTENTS = "<!-- contents -->"
_HEADING = re.compile(r'<h2 id="([a-z-]+)">([^<]+)</h2>')  # the template's own: other text is escaped


def render_page(report: Report) -> str:
    """Render the whole file, at most about MAX_BYTES."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "number": _number,
        "estimate": _estimate,
        "spread": _spread,
        "range_of": _range,
        "slice_table": slice_table,
        "shown_tensors": shown_tensors,
        "probability_bar": _probability_bar,
        "kl_titles": KL_TITLES,
        "kl_words": KL_WORDS,
    }
    environment.filters["shown"] = _shown
    css = _read("report.css")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    html = environment.from_string(_read("report.html")).render(
        report=report,
        figures=Figures(report),
        css=Markup(css),
        csp=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        limits={"context": CONTEXT, "continuation": CONTINUATION, "examples": EXAMPLES},
        version=VERSION,
    )
    return html.replace(_CONTENTS, _contents(html))


def _contents(html: str) -> str:
    """Table of contents: a link to the heading of each section below it that is there."""
    below = html.partition(_CONTENTS)[2]
    return "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _HEADING.findall(below))


def _read(name: str) -> str:
    return (files("q3edge.report.page") / "templates" / name).read_text(encoding="utf-8")


def _shown(text: object, limit: int | None = None) -> Markup:
    """Escape text of unknown origin, and isolate its direction."""
    return Markup("<bdi>{}</bdi>").format(visible(str(text), limit))


def _probability_bar(probability: float) -> Markup:
    """Draw a bar as long as the share of 1; the number beside it says the same, so no name is needed."""
    bar = f'<rect class="bar" width="{100 * probability:.1f}" height="8"/>'
    return Markup(f'<svg role="img" aria-hidden="true" viewBox="0 0 100 8" preserveAspectRatio="none">{bar}</svg>')


def _number(value: float | None, style: str) -> Markup:
    if value is None:
        return Markup('<span class="none">–</span>')
    return Markup('<data value="{}">{}</data>').format(json.dumps(value), STYLES[style](value))


def _estimate(found: Interval | None, style: str) -> Markup:
    """Value with its interval in small type below it."""
    if found is None or found.low is None or found.high is None:
        return _number(found.value if found else None, style)
    low, high = _number(found.low, style), _number(found.high, style)
    return _number(found.value, style) + Markup(' <span class="interval">[{}, {}]</span>').format(low, high)


def _range(found: tuple[float, float], style: str) -> Markup:
    """Smallest and largest value; one number where both are written alike."""
    low, high = (_number(value, style) for value in found)
    return low if STYLES[style](found[0]) == STYLES[style](found[1]) else low + Markup(" to ") + high


def _spread(found: Spread | None, style: str) -> Markup:
    if found is None:
        return _number(None, style)
    low, high = _number(found.low, style), _number(found.high, style)
    return _number(found.median, style) + Markup(' <span class="interval">[{}, {}]</span>').format(low, high)
