"""Harm to documents that keep their form: JSON and TOML with odd, lost, doubled, renamed and exchanged entries."""

import json
from random import Random
from typing import Any

_DEEP = 100_000


class Raw(str):
    """Text that is written into the document as it stands."""


class Doubled(dict):
    """An object that names its first entry once more, with another value."""


_ODD = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "1", "2", "-0.0", "1.5", "1e308", "4294967296", "1e18"),
    *("18446744073709551616", "9" * 4000, "9" * 5000, "null", "true", "[]", "{}", "[null]", '""', '"\\u0000"'),
    *('"\\ud800"', '"\\u001b[31mred\\r"', '"../../x"', '"/etc/passwd"', '"a\\nb"', '"__proto__"', f'"{"x" * 100_000}"'),
    *("[" * 500 + "]" * 500, "[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP),
    *(f"[{','.join(['1'] * 10_000)}]",),
)
_ODD_TOML = (
    *("nan", "inf", "-inf", "1e400", "-1", "0", "1", "1.5", "1e308", "-9223372036854775809", "9" * 4000, "9" * 5000),
    *("true", "[]", "{}", '""', '"\\u0000"', '"\\u001b[31mred\\r"', '"../../x"', '"/etc/passwd"', f'"{"x" * 100_000}"'),
    *("1979-05-27T07:32:00Z", "07:32:00", "0x7fffffffffffffff", "[[1]]", '[1, "a"]', "'''\n", "{a = {b = 1}}"),
    *("[" * 500 + "]" * 500, "[" * _DEEP + "]" * _DEEP, "{a=" * 5000 + "1" + "}" * 5000, "10000000000", "1_000_000"),
)


def harm_json(text: str | bytes, random: Random) -> tuple[str, str]:
    """The document after one harm, and which."""
    tree = json.loads(text)
    places = list(_places(tree))
    holder, key = random.choice(places)
    kind = random.choice(("odd", "odd", "odd", "number", "lost", "exchanged", "doubled", "renamed", "grown"))
    if kind == "number" and isinstance(holder[key], int | float):
        holder[key] = random.choice((holder[key] + 1, holder[key] * 1000, -holder[key], holder[key] * 10**15))
    elif kind == "lost":
        del holder[key]
    elif kind == "exchanged":
        other, there = random.choice(places)
        holder[key], other[there] = other[there], holder[key]
        if not _is_tree(tree):
            return harm_json(text, random)
    elif kind == "doubled" and isinstance(holder[key], dict):
        holder[key] = Doubled(holder[key])
    elif kind == "renamed" and isinstance(holder, dict):
        holder[random.choice(("", "x", "\0", "../x", "__class__", key + " "))] = holder.pop(key)
    elif kind == "grown" and isinstance(holder[key], list):
        holder[key] = holder[key] * 2000
    else:
        holder[key] = Raw(random.choice(_ODD))
        kind = f"odd value {holder[key][:20]}"
    return written(tree), f"{kind} at {key!r}"


def harm_toml(text: str, random: Random) -> tuple[str, str]:
    """As harm_json, line by line."""
    lines = text.splitlines()
    number = random.randrange(len(lines))
    name, is_entry, _ = lines[number].partition(" = ")
    kind = random.choice(("odd", "odd", "odd", "lost", "doubled", "exchanged", "renamed", "deep", "bytes"))
    if kind == "lost":
        del lines[number]
    elif kind == "doubled":
        lines.insert(number, lines[number])
    elif kind == "exchanged":
        other = random.randrange(len(lines))
        lines[number], lines[other] = lines[other], lines[number]
    elif kind == "renamed":
        lines[number] = random.choice(("x", "__class__", "", '"\\u0000"', "a.b")) + lines[number][len(name) :]
    elif kind == "deep":
        lines.insert(number, random.choice((".".join(["a"] * 20_000) + " = 1", f"[{'.'.join(['a'] * 20_000)}]")))
    elif kind == "bytes":
        lines.insert(number, random.choice(("\0", "\x1b[31m", "\ufeff", "\u202e", "#" * 100_000, "[[x]]", "[x]" * 2)))
    elif is_entry:
        lines[number] = f"{name} = {random.choice(_ODD_TOML)}"
        kind = f"odd value at {name}: {lines[number][len(name) + 3 :][:20]}"
    return "\n".join(lines) + "\n", kind


def written(tree: Any) -> str:
    """The JSON text of a document that harm was done to."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, dict):
        entries = [f"{json.dumps(str(name))}: {written(value)}" for name, value in tree.items()]
        if isinstance(tree, Doubled) and entries:
            entries.append(f"{json.dumps(next(iter(tree)))}: 1")
        return "{" + ", ".join(entries) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(written, tree)) + "]"
    return json.dumps(tree)


def _places(tree: Any) -> Any:
    """Every (list or object, index or key) of the document."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _is_tree(tree: Any, above: tuple[int, ...] = ()) -> bool:
    """Whether nothing holds itself."""
    if not isinstance(tree, dict | list):
        return True
    values = tree.values() if isinstance(tree, dict) else tree
    return id(tree) not in above and all(_is_tree(value, (*above, id(tree))) for value in values)
