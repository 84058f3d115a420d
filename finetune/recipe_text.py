"""Recipes as text: YAML files, ``key=value`` overrides, and problems told with their keys, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from finetune.errors import ConfigError, did_you_mean, must, nearest


def problems_of(model: type[BaseModel], error: ValidationError, source: str) -> str:
    """Every problem of a failed validation in one message, each with its key and the nearest known one."""
    return joined(problem_lines(model, error), source)


def problem_lines(model: type[BaseModel], error: ValidationError) -> list[str]:
    """A line a problem. A key that may be one thing or another has failed at each: that is one problem."""
    by_key: dict[tuple[str, ...], list[Any]] = {}
    for item in error.errors():
        by_key.setdefault(_path(item), []).append(item)
    return [_problem_of(model, path, items) for path, items in by_key.items()]


def read_yaml(path: Path, kind: str = "Recipe", holds: str = "recipe keys") -> dict[str, Any]:
    """A YAML file's mapping; raises ConfigError naming the file and line."""
    shown = f"{kind} {str(path)!r}"
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{shown} does not exist. `finetune recipe ls` lists the shipped ones.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{shown}{where} is not valid YAML: {getattr(error, 'problem', error)}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(must(shown, f"a mapping of {holds}", type(tree).__name__))
    return tree


def _parse(text: str) -> Any:
    """``yaml.safe_load`` by libyaml where PyYAML was built with it: ten times faster. A key given twice is an error."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _require_single_keys(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _require_single_keys(node: Any) -> None:
    """Raises YAMLError at a key that its mapping has twice: YAML would take the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
            _require_single_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _require_single_keys(child)


def known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """All dotted keys of a recipe model with their field descriptions."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys.update(known_keys(kind, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field
    return keys


def apply_overrides(
    tree: Mapping[str, Any],
    assignments: Iterable[str],
    model: type[BaseModel],
    source: str = "the command line",
) -> dict[str, Any]:
    """Apply ``key=value`` strings (values are YAML); raises ConfigError with all unknown keys."""
    result = _deep_copy(tree)
    known = known_keys(model)
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            problems.append(must(f"{assignment!r}", "of the form key=value", repr(assignment)))
            continue
        full = key if key in known else None
        matches: list[str] = []
        if full is None:
            matches = [k for k in known if k.rsplit(".", 1)[-1] == key]
            full = matches[0] if len(matches) == 1 else None
        if full is None and len(matches) > 1:
            problems.append(f"{key}: may mean {' or '.join(matches)}. Write one of them out.")
            continue
        if full is None and any(k.startswith(f"{key}.") for k in known):
            inside = [k for k in known if k.startswith(f"{key}.")][:3]
            problems.append(f"{key}: is a section. Give one of its keys, such as {', '.join(inside)}.")
            continue
        if full is None:
            leaves = [*known, *(k.rsplit(".", 1)[-1] for k in known)]
            problems.append(f"{key}: unknown key.{did_you_mean(key, leaves)}")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(value, str):
            value = _number(value)
        node = result
        *parents, leaf = full.split(".")
        for parent in parents:
            child = node.get(parent)
            node[parent] = child = dict(child) if isinstance(child, Mapping) else {}
            node = child
        node[leaf] = value
    if problems:
        raise ConfigError(joined(problems, source))
    return result


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-3 as a string; a user means the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _deep_copy(v) if isinstance(v, Mapping) else v for k, v in tree.items()}


def joined(problems: list[str], source: str) -> str:
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    listed = "".join(f"\n  - {p}" for p in problems)
    return f"{len(problems)} problems in {source}:{listed}"


def _path(item: Any) -> tuple[str, ...]:
    return tuple(p for p in item["loc"] if isinstance(p, str) and not _is_union_tag(p))


def _problem_of(model: type[BaseModel], path: tuple[str, ...], items: list[Any]) -> str:
    key, item = ".".join(path), items[0]
    if item["type"] == "extra_forbidden":
        parent = ".".join(path[:-1])
        siblings = [
            k.removeprefix(f"{parent}." if parent else "")
            for k in known_keys(model)
            if not parent or k.startswith(f"{parent}.")
        ]
        siblings += [k.split(".")[0] for k in siblings]
        return f"{key}: unknown key.{did_you_mean(path[-1], siblings) or _other_section(model, path[-1])}"
    wanted = list(dict.fromkeys(_constraint(item) for item in items))
    first, *others = wanted
    told = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    return f"{key}: {told}. Got {item['input']!r} instead."


def _other_section(model: type[BaseModel], name: str) -> str:
    """A hint for a key that another section has: epochs at the top for train.epochs."""
    leaves = {key.rsplit(".", 1)[-1]: key for key in known_keys(model)}
    near = nearest(name, leaves, 1)
    return f' Did you mean "{leaves[near[0]]}"?' if near else ""


def unknown_strategy(name: Any, known: list[str]) -> list[str]:
    if not known or not isinstance(name, str) or name in known:
        return []
    return [must("strategy", f"one of {', '.join(known)}", repr(name)).rstrip() + did_you_mean(name, known)]


def _constraint(item: Any) -> str:
    if item["type"] in ("model_type", "dict_type"):
        return "must be a mapping of keys"
    message: str = item["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "must be").rstrip(".")


def _is_union_tag(part: str) -> bool:
    return part in {"int", "float", "str", "bool"} or part.startswith(
        ("literal[", "constrained-", "function-", "dict[")
    )
