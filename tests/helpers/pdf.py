"""PDF files written by hand."""

from __future__ import annotations

import zlib


def pdf(*streams: str, pages: int = 1, codes: bytes = b"") -> bytes:
    """PDF of a page with such drawing operators, and forms F0, F1 ... that it and they may draw, written by hand.

    pages: so many times the same. codes: the font's map from codes to Unicode.
    """
    forms = b" ".join(b"/F%d %d 0 R" % (number, number + 5) for number in range(len(streams) - 1))
    resources = b"/Resources << /Font << /F1 4 0 R >> /XObject << %s >> >>" % forms
    page, *inner = (zlib.compress(stream.encode()) for stream in streams)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b"3 0 R " * pages, pages),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents %d 0 R %s >>" % (len(streams) + 4, resources),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode %d 0 R >>" % (len(streams) + 5),
        *(b"/Type /XObject /Subtype /Form /BBox [0 0 99 99] " + resources + form for form in inner),
        page,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(codes), codes),
    ]
    head = b"<< /Filter /FlateDecode /Length %d %s >>\nstream\n%s\nendstream"
    for place, stream in enumerate([*inner, page], 4):
        objects[place] = head % (len(stream), objects[place].removesuffix(stream), stream)
    body = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return body + table + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)


def shown(text: str) -> str:
    """Drawing operators that show a text."""
    return f"BT /F1 12 Tf 10 10 Td ({text}) Tj ET"
