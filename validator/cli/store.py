"""``validator store``: what a feature store holds, whether it is sound, and keeping it small."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from validator.cli.console import add_command, console, print_json, table

__all__ = ["register"]

MEGABYTE = 2**20


def register(subparsers: Any) -> None:
    """Add ``store`` with its actions; without an action it shows what is stored."""
    store = add_command(subparsers, "store", "Feature stores: stats, verify, merge, gc.",
                        "validator store stats", _stats)
    store.add_argument("--folder", help=FOLDER_HELP)
    actions = store.add_subparsers(dest="action", metavar="ACTION")
    for name, what, run in (
        ("stats", "Rows, columns and size of each recipe.", _stats),
        ("verify", "Read every byte; exit 1 if something is damaged.", _verify),
        ("merge", "Write many small shards into few large ones.", _merge),
        ("gc", "Remove damaged shards that were set aside and what dead writers left.", _clean),
    ):
        action = add_command(actions, name, what, f"validator store {name}", run)
        action.add_argument("--folder", default=argparse.SUPPRESS, help=FOLDER_HELP)


FOLDER_HELP = "the store, a folder or its URL (default: features/ in the cache folder)"


def _root(args: argparse.Namespace) -> str | Path:
    from validator.models.cache import cache_root

    return args.folder or cache_root() / "features"


def _stats(args: argparse.Namespace) -> int:
    from validator.features.store_upkeep import store_stats

    found = store_stats(_root(args))
    facts = [_describe(stats) for stats in found]
    if args.json:
        print_json(facts)
        return 0
    keys = ["model", "feature_set", "solver", "columns", "rows", "shards", "megabytes"]
    rows = [[str(f[k]) for k in keys] for f in facts]
    console().print(table(str(_root(args)), [k.replace("_", " ") for k in keys], rows))
    return 0


def _describe(stats: Any) -> dict[str, Any]:
    recipe = stats.recipe or {}
    provenance = recipe.get("provenance", {})
    facts = {k: v for k, v in dataclasses.asdict(stats).items() if k not in ("recipe", "size")}
    return facts | {
        "folder": str(stats.folder),
        "model": provenance.get("model", ""),
        "feature_set": provenance.get("feature_set", ""),
        "solver": provenance.get("solver", ""),
        "megabytes": round(stats.size / MEGABYTE, 2),
    }


def _verify(args: argparse.Namespace) -> int:
    from validator.features.store_upkeep import verify_store

    findings = verify_store(_root(args))
    facts = [{"kind": f.kind, "path": str(f.path), "problem": f.problem} for f in findings]
    if args.json:
        print_json(facts)
    elif facts:
        console().print(table("Findings", ["kind", "path", "problem"],
                              [list(f.values()) for f in facts]))
    else:
        console().print("every shard is sound")
    return int(any(f.kind != "leftover" for f in findings))


def _merge(args: argparse.Namespace) -> int:
    from validator.features.store_upkeep import merge_store

    replaced = merge_store(_root(args))
    _say(args, {"shards_replaced": replaced})
    return 0


def _clean(args: argparse.Namespace) -> int:
    from validator.features.store_upkeep import clean_store

    removed = clean_store(_root(args))
    _say(args, {"files_removed": len(removed)})
    return 0


def _say(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    if args.json:
        print_json(facts)
        return
    for name, value in facts.items():
        console().print(f"{name.replace('_', ' ')}: {value}")
