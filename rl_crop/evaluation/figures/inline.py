"""Pictures as parts of a page."""

import re
from html import escape

from rl_crop.evaluation.figures.compose import Picture

_CELL = re.compile(r'id="cell\|([^"|]*)\|([^"|]*)\|([^"|]*)"')
_USED = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_ID = re.compile(r' id="([^"]*)"')


def inline_svg(picture: Picture) -> str:
    """
    :return: a figure as an SVG element that can stand in a page beside others; every mark of a cell has ``data-arm``,
        ``data-sparsity`` and ``data-seed``
    """
    text = picture.svg[picture.svg.index("<svg") :]
    # Rules of a picture would hold for the whole page, which has them itself.
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = _CELL.sub(r'data-arm="\1" data-sparsity="\2" data-seed="\3"', text)
    # Names are unique in a file only, not in a page.
    used = set(_USED.findall(text))
    prefix = re.sub(r"\W", "-", picture.name)
    text = _ID.sub(lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    size = re.search(r'<svg[^>]* width="([\d.]+)pt"', text)
    style = f'style="width:{float(size[1]) * 4 / 3:.0f}px" ' if size else ""
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text))
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(picture.title)}" {style}', 1).strip()
