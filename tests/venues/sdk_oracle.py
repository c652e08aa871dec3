"""Run by another Python in an environment of the SDKs' own: reads bodies, answers what the SDKs' models make of them.

Standard input: JSON lines ``{"name", "model", "body"}``. Standard output: for each ``{"name", "error", "value"}``;
``value`` is the model as plain JSON, null where the model refuses the body.
"""

import importlib
import json
import sys
from typing import Any


def parsed(model: str, body: Any) -> Any:
    """``module:Class`` validates the body as that pydantic model, ``module:function`` is called with it."""
    module, _, name = model.partition(":")
    target = getattr(importlib.import_module(module), name)
    read = getattr(target, "parse_response", None) or getattr(target, "model_validate", None) or target
    found = read(body)
    if found is None:
        raise ValueError("the model took nothing from the body")
    return found.model_dump(mode="json")


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"name": asked["name"], "error": None, "value": None}
        try:
            answer["value"] = parsed(asked["model"], asked["body"])
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error.__cause__ or error}"[:2_000]
        sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
