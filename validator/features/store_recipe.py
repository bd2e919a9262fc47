"""What decides the values of features besides the tokens, and the folder named after it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from validator import __version__
from validator.errors import ParameterError, StoreError
from validator.features.store_place import Place
from validator.features.store_shards import FORMAT, require_readable_format

__all__ = ["RECIPE", "encode_recipe", "read_recipe", "recipe_hash"]

RECIPE = "recipe.json"


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe as canonical JSON (keys sorted, no spaces): 64 hexadecimal digits.

    Raises:
        ParameterError: a value that JSON cannot hold, NaN included, or a key that is no string.
    """
    _require_string_keys(recipe)
    try:
        text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"a recipe needs values that JSON can hold: {error}. Give text, "
                             "numbers, booleans, None, and lists and dicts of them.") from error
    return hashlib.sha256(text.encode()).hexdigest()


def encode_recipe(recipe: Mapping[str, Any]) -> bytes:
    """All bytes of a recipe's file."""
    meta = {"format": FORMAT, "version": __version__, "recipe": recipe}
    return (json.dumps(meta, indent=2, sort_keys=True) + "\n").encode()


def read_recipe(folder: Place) -> Mapping[str, Any] | None:
    """The recipe in a recipe's folder; None where none is written yet.

    Raises:
        StoreError: of a newer format, damaged, or not the recipe the folder is named after.
    """
    path = folder / RECIPE
    try:
        meta = json.loads(path.read_bytes())
        require_readable_format(meta, path)
        recipe: Mapping[str, Any] = meta["recipe"]
        found = recipe_hash(recipe)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error}; check its permissions and the disk"
                         ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error!r}. If the folder has the name it was given, "
                         "delete this one file; it is written anew.") from error
    if found != folder.name:
        raise StoreError(f"{path} has the SHA-256 {found}, but its folder is called {folder.name}. "
                         "If the folder was renamed, name it back; if the file was edited, delete "
                         "the file, which is written anew.")
    return recipe


def _require_string_keys(value: Any) -> None:
    """JSON would write the keys 1 and "1" alike, and two recipes would share a folder."""
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise ParameterError(f"keys of a recipe must be strings, got {bad[0]!r}; write "
                                 f"{str(bad[0])!r}")
        for part in value.values():
            _require_string_keys(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _require_string_keys(part)
