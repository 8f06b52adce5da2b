"""Write the messages' types as TypeScript, from the one schema in Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from canvas_rt.edits.data import Edit
from canvas_rt.ir.document import Document
from canvas_ui.messages import Envelope, Reply

TARGET = Path(__file__).parents[1] / "web" / "src" / "protocol.ts"
PRIMITIVES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def generate() -> str:
    """The file's text. Every type that a message, an edit or a document is made of, in the order of names."""
    schemas = {
        "Envelope": Envelope.model_json_schema(mode="validation"),
        "Reply": Reply.model_json_schema(mode="serialization"),
        "Edit": TypeAdapter(Edit).json_schema(mode="validation"),
        "Document": Document.model_json_schema(mode="serialization"),
    }
    defined: dict[str, Mapping[str, Any]] = {}
    for name, schema in schemas.items():
        for inner, body in schema.pop("$defs", {}).items():
            _define(defined, inner, body)
        _define(defined, name, schema)
    lines = ["// Generated from ui/canvas_ui/messages.py by `make types`. Do not edit.", ""]
    for name in sorted(defined):
        lines += [f"export type {name} = {_type(defined[name], '')};", ""]
    return "\n".join(lines)


def _define(defined: dict[str, Mapping[str, Any]], name: str, body: Mapping[str, Any]) -> None:
    known = defined.get(name)
    # A type that goes both ways has optional fields on the way in and all of them on the way out: the wider one holds.
    if known is None or len(known.get("required", ())) > len(body.get("required", ())):
        defined[name] = body


def _type(schema: Mapping[str, Any], indent: str) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return " | ".join(map(_literal, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type(option, indent) for option in schema[key]))
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return "[" + ", ".join(_type(item, indent) for item in schema["prefixItems"]) + "]"
        inner = _type(schema.get("items", {}), indent)
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if kind == "object":
        return _object(schema, indent)
    return PRIMITIVES.get(str(kind), "unknown")


def _object(schema: Mapping[str, Any], indent: str) -> str:
    if "properties" not in schema:
        values = schema.get("additionalProperties")
        return f"Record<string, {_type(values, indent) if isinstance(values, Mapping) else 'unknown'}>"
    required = schema.get("required", ())
    lines = ["{"]
    for name, field in schema["properties"].items():
        if "description" in field:
            lines.append(f"{indent}  /** {' '.join(field['description'].split()).replace('*/', '* /')} */")
        mark = "" if name in required else "?"
        lines.append(f"{indent}  {name}{mark}: {_type(field, indent + '  ')};")
    return "\n".join([*lines, indent + "}"])


def _literal(value: Any) -> str:
    return "null" if value is None else f'"{value}"' if isinstance(value, str) else str(value).lower()


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(generate(), encoding="utf-8")
