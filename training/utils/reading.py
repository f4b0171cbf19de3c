"""The one reader of values from outside: recipes, configs, manifests and results, with their types and ranges.

A type is anything that pydantic checks. `ranges.py` has the ranges that several files share.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from modeling_dcclip.image_dcclip import open_regular


class _Loader(yaml.SafeLoader):
    """YAML 1.2: only true and false are booleans, 1e-4 is a number, and a date is a string.

    A value with an anchor may hold no alias, so that no file expands beyond its own size many times over. A key that
    appears twice is refused.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (as in the base class)
    anchored = 0  # anchored values that the parser is inside of

    def compose_node(self, parent, index):
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and self.anchored:
            raise yaml.YAMLError(f"an alias inside an anchored value{event.start_mark}")
        is_anchored = not is_alias and event.anchor is not None
        self.anchored += is_anchored
        node = super().compose_node(parent, index)
        self.anchored -= is_anchored
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if key.value in keys and isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"the key {key.value!r} appears twice{key.start_mark}")
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


for _tag, _pattern, _first in (
    ("bool", "true|false|True|False|TRUE|FALSE", "tfTF"),
    ("int", r"[-+]?(?:0|[1-9]\d*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.inf|\.nan",
        "-+0123456789.",
    ),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), [*_first]
    )


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2 without nested anchors and duplicate keys.

    Raises:
        ValueError: The text is damaged. The message names line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {max(names, key=names.count)!r} appears twice")
    return content


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Text of a regular file.

    Raises:
        OSError: It cannot be read, or it is a pipe or a device, whose end may never come.
        ValueError: It has another encoding.
    """
    with io.TextIOWrapper(open_regular(path), encoding) as file:
        return file.read()


def require_regular(path: Path, field: str):
    """Refuse a pipe or a device, which a library would open by its name and perhaps never finish.

    Raises:
        ValueError: The path exists, and is neither a file nor a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{field}: {str(path)!r} is a pipe or a device. Name a file.")


def read_mapping(path: Path, field: str, **types: Any) -> dict[str, Any]:
    """Read a YAML file (`*.yaml`, `*.yml`) or JSON file whose content is a mapping.

    Args:
        path: A regular file.
        field: Option that named the file; the error message starts with it.
        types: Types of the fields that must be there, by name, such as `image_size=Pixels`. No value is converted.

    Raises:
        ValueError: The file is missing or damaged, or a field is missing, of the wrong type or out of its range.
    """
    try:
        text = read_text(path)
        is_yaml = path.suffix in (".yaml", ".yml")
        content = (
            parse_yaml(text) if is_yaml else json.loads(text, object_pairs_hook=_without_duplicates)
        )
        if not isinstance(content, dict):
            raise ValueError(f"expected fields with values, found {content!r:.60}")
        for name, kind in types.items():
            if name not in content:
                raise ValueError(f"field {name!r} is missing")
            check_value(kind, content[name], name)
    except (OSError, ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{field}: {path} cannot be used ({cause}). Copy the file again, or write it anew."
        ) from error
    return content


def check_value(kind: Any, value: Any, name: str = "") -> Any:
    """Check a value of JSON or YAML against a type, and build the dataclasses in it. No value is converted.

    Args:
        kind: Type with ranges.
        value: Strings, numbers, booleans, None, and lists and mappings of these.
        name: Name of the value; the error message starts with it.

    Raises:
        ValueError: The value does not fit. The message names the field, the problem and the value.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if (
            first["type"] == "value_error"
        ):  # raised by a dataclass's own check, which names its field
            raise first["ctx"]["error"] from error
        path = [name] if name else []
        inside = value
        for part in first["loc"]:  # which also names the alternatives of a union
            items = dict(enumerate(inside)) if isinstance(inside, list) else inside
            if isinstance(items, dict) and isinstance(inside, list) == isinstance(part, int):
                path.append(str(part))
                inside = items.get(part)
        found = "" if first["type"] == "missing" else f", got {first['input']!r:.80}"
        raise ValueError(f"{'.'.join(path)}: {first['msg']}{found}.") from error
