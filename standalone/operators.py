"""The comparisons of rule criteria: value on the left, pattern on the right."""

import datetime
import fnmatch
import re

import dateutil.parser


def _age(value):
    moment = dateutil.parser.parse(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return (datetime.datetime.now(datetime.timezone.utc) - moment).total_seconds()


def _search(value, pattern, condition, check):
    """Test each item of a list with criteria of its own, on `item.<field>`."""
    over_items = any if condition in ("any", "any2any") else all
    over_tests = any if condition in ("all2any", "any2any") else all
    items = [value] if isinstance(value, dict) else value
    return over_items(
        [over_tests([check(k, c, {"item": item}) for k, c in pattern.items()]) for item in items]
    )


# A null on the left raises in the comparisons of text; the rule is then enforced as failed.
OPERATORS = {
    "matchwildcard": lambda v, p: fnmatch.fnmatch(v, p),
    "matchregex": lambda v, p: re.compile(p, re.DOTALL).match(v) is not None,
    "regex": lambda v, p: re.search(p, v) is not None,
    "iregex": lambda v, p: re.search(p, v, re.IGNORECASE) is not None,
    "equals": lambda v, p: v == p,
    "nequals": lambda v, p: v != p,
    "iequals": lambda v, p: v.lower() == p.lower(),
    "contains": lambda v, p: p in v,
    "icontains": lambda v, p: p.lower() in v.lower(),
    "ncontains": lambda v, p: p not in v,
    "incontains": lambda v, p: p.lower() not in v.lower(),
    "startswith": lambda v, p: v.startswith(p),
    "istartswith": lambda v, p: v.lower().startswith(p.lower()),
    "endswith": lambda v, p: v.endswith(p),
    "iendswith": lambda v, p: v.lower().endswith(p.lower()),
    "lessthan": lambda v, p: v < p,
    "greaterthan": lambda v, p: v > p,
    "timediff_lt": lambda v, p: _age(v) < float(p),
    "timediff_gt": lambda v, p: _age(v) > float(p),
    "exists": lambda v, p: v is not None,
    "nexists": lambda v, p: v is None,
    "inside": lambda v, p: v in p,
    "ninside": lambda v, p: v not in p,
    "search": _search,
}
SHORT = {"eq": "equals", "neq": "nequals", "ieq": "iequals", "lt": "lessthan"}
SHORT.update({"gt": "greaterthan", "in": "inside", "nin": "ninside"})
SHORT.update({"td_lt": "timediff_lt", "td_gt": "timediff_gt"})
OPERATORS.update({short: OPERATORS[name] for short, name in SHORT.items()})
