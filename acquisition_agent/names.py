"""Which names are acquired files."""

import fnmatch
import re
from collections.abc import Iterable


class NameRule:
    """Patterns such as ``*.tif`` that a file's name must and must not match.

    Upper and lower case are the same: cameras write FRAME.TIF.
    """

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._include = _any_of(include)
        self._exclude = _any_of(exclude)

    def excludes(self, name: str) -> bool:
        """Tell whether a file or folder is left alone, whatever it holds."""
        return self._exclude.match(name) is not None

    def includes(self, name: str) -> bool:
        """Tell whether a file of this name is to be sent."""
        return self._include.match(name) is not None and not self.excludes(name)


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    expressions = [fnmatch.translate(pattern) for pattern in patterns]
    return re.compile("|".join(expressions) or r"(?!)", re.IGNORECASE)
