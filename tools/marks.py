"""Pages with parts that are made: a part stands between two marks, comments that tell its name."""

from __future__ import annotations

import re

__all__ = ["filled"]


def filled(page: str, begin: str, end: str, part: str) -> str:
    """Put a part between its marks.

    Args:
        page: the text of the page.
        begin: what the comment in front of the part says, which has a line of its own.
        end: what the comment behind it says.
        part: what comes between, in place of what was there.

    Raises:
        ValueError: the page has not these marks, once.
    """
    begin, end = f"<!-- {begin} -->\n", f"<!-- {end} -->\n"
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    page, count = re.subn(pattern, lambda _: f"{begin}\n{part}\n{end}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"page must have the marks {begin.strip()} and {end.strip()} once, got {count} times")
    return page
