"""StackStorm's operators for rule criteria. Each compares the trigger's value with a pattern.

The operators `search`, `timediff_lt` and `timediff_gt` are not implemented.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any, Callable

# As in StackStorm, text comparisons raise an error if the value is null, and the rule fails.
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "matchwildcard": fnmatch.fnmatch,
    "matchregex": lambda value, pattern: re.match(pattern, value, re.DOTALL) is not None,
    "regex": lambda value, pattern: re.search(pattern, value) is not None,
    "iregex": lambda value, pattern: re.search(pattern, value, re.IGNORECASE) is not None,
    "equals": lambda value, pattern: value == pattern,
    "nequals": lambda value, pattern: value != pattern,
    "iequals": lambda value, pattern: value.lower() == pattern.lower(),
    "contains": lambda value, pattern: pattern in value,
    "icontains": lambda value, pattern: pattern.lower() in value.lower(),
    "ncontains": lambda value, pattern: pattern not in value,
    "incontains": lambda value, pattern: pattern.lower() not in value.lower(),
    "startswith": lambda value, pattern: value.startswith(pattern),
    "istartswith": lambda value, pattern: value.lower().startswith(pattern.lower()),
    "endswith": lambda value, pattern: value.endswith(pattern),
    "iendswith": lambda value, pattern: value.lower().endswith(pattern.lower()),
    "lessthan": lambda value, pattern: value < pattern,
    "greaterthan": lambda value, pattern: value > pattern,
    "exists": lambda value, pattern: value is not None,
    "nexists": lambda value, pattern: value is None,
    "inside": lambda value, pattern: value in pattern,
    "ninside": lambda value, pattern: value not in pattern,
}
ABBREVIATIONS = {
    "eq": "equals",
    "neq": "nequals",
    "ieq": "iequals",
    "lt": "lessthan",
    "gt": "greaterthan",
    "in": "inside",
    "nin": "ninside",
}
OPERATORS.update({alias: OPERATORS[name] for alias, name in ABBREVIATIONS.items()})
