"""``validator windtunnel``: tasks whose truth is computed, and models that learn them."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from validator.cli.console import add_command, console, print_json, progress, table

__all__ = ["add_settings", "register", "settings_from"]

ACTIONS = ("train", "measure", "study")
"""Each is a module ``windtunnel_<action>`` of this package with ``add_<action>(actions)``."""


def register(subparsers: Any) -> None:
    """Add ``windtunnel`` with its actions; without an action it lists."""
    parent = add_command(
        subparsers, "windtunnel",
        "Tasks whose truth is computed: traces, twins of equal length, small models that learn "
        "them, exact measures.", "validator windtunnel list", _list)
    actions = parent.add_subparsers(dest="action", metavar="ACTION")
    add_command(actions, "list", "List the tunnels and the reference subjects.",
                "validator windtunnel list", _list)
    _add_sample(actions)
    for name in ACTIONS:
        module = importlib.import_module(f"validator.cli.windtunnel_{name}")
        getattr(module, f"add_{name}")(actions)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The option ``--set``."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        dest="settings", help="change a setting of the tunnel, e.g. nodes=8,16; "
                        "may be given several times (`validator windtunnel list` names them)")


def settings_from(args: argparse.Namespace) -> dict[str, str]:
    """Name -> value of every ``--set``. Raises ParameterError where there is no ``=``."""
    from validator.errors import ParameterError

    found = {}
    for text in args.settings:
        name, sign, value = text.partition("=")
        if not sign:
            raise ParameterError(f"--set takes NAME=VALUE, got {text!r}")
        found[name.strip()] = value.strip()
    return found


def _add_sample(actions: Any) -> None:
    parser = add_command(
        actions, "sample",
        "Right traces of a tunnel, and wrong twins of equal length, with exact labels of every "
        "step.",
        "validator windtunnel sample tree -n 200 --style flat --corrupt swapped -o traces.jsonl",
        _sample)
    parser.add_argument("tunnel", metavar="TUNNEL", help="a tunnel, or a reference subject: its "
                        "tunnel, settings and style")
    parser.add_argument("-n", type=int, default=100, help="problems, all different (default: 100)")
    parser.add_argument("--style", help="how they are written (default: the first)")
    parser.add_argument("--seed", type=int, default=0, help="of problems and twins (default: 0)")
    parser.add_argument("--corrupt", action="append", default=[], metavar="KIND",
                        help="a wrong twin of each trace, of this kind or of `all`; may be given "
                             "several times")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSONL file to write")
    add_settings(parser)


def _sample(args: argparse.Namespace) -> int:
    from validator.training.datasets import write_traces
    from validator.windtunnels.settings import changed_tunnel, tunnel_class
    from validator.windtunnels.subjects import SUBJECTS
    from validator.windtunnels.traces import tunnel_traces

    subject = SUBJECTS.get(args.tunnel)
    tunnel = tunnel_class(args.tunnel)() if subject is None else subject.tunnel
    tunnel = changed_tunnel(tunnel, settings_from(args))
    style = args.style or (tunnel.styles[0] if subject is None else subject.style)
    kinds = tunnel.corruptions if "all" in args.corrupt else tuple(dict.fromkeys(args.corrupt))
    with progress(f"sampling {args.n} problems") as advance:
        traces = tunnel_traces(tunnel, args.n, style=style, seed=args.seed, kinds=kinds,
                               progress=advance)
    write_traces(args.output, traces)
    facts = {"tunnel": tunnel.name, "style": style, "problems": args.n, "traces": len(traces),
             "valid": sum(t.label == 1 for t in traces), "twins": list(kinds),
             "seed": args.seed, "output": str(args.output)}
    if args.json:
        print_json(facts)
    else:
        rows = [[name, ", ".join(v) if isinstance(v, list) else str(v)]
                for name, v in facts.items()]
        console().print(table("Sampled", ["", ""], rows))
    return 0


def _list(args: argparse.Namespace) -> int:
    from validator.windtunnels.settings import TUNNELS, settings_of
    from validator.windtunnels.subjects import SUBJECTS

    tunnels = [_tunnel_facts(made()) for made in TUNNELS.values()]
    subjects: list[dict[str, Any]] = [
        {"name": s.name, "tunnel": s.tunnel.name, "style": s.style, "steps": s.steps,
         "layers": s.layers, "settings": settings_of(s.tunnel)} for s in SUBJECTS.values()]
    if args.json:
        print_json({"tunnels": tunnels, "subjects": subjects})
        return 0
    usual = {t["name"]: t["settings"] for t in tunnels}
    console().print(table(
        "Tunnels", ["tunnel", "styles", "corruptions", "settings"],
        [[t["name"], ", ".join(t["styles"]), ", ".join(t["corruptions"]),
          _settings(t["settings"])] for t in tunnels]))
    rows = []
    for s in subjects:
        changed = {k: v for k, v in s["settings"].items() if v != usual[s["tunnel"]][k]}
        rows.append([s["name"], s["tunnel"], s["style"], f"{s['steps']:,}", _settings(changed)])
    console().print(table("Reference subjects: `validator windtunnel train NAME`",
                          ["subject", "tunnel", "style", "steps", "other settings"], rows))
    return 0


def _tunnel_facts(tunnel: Any) -> dict[str, Any]:
    from validator.windtunnels.settings import settings_of

    return {"name": tunnel.name, "styles": list(tunnel.styles),
            "corruptions": list(tunnel.corruptions), "settings": settings_of(tunnel)}


def _settings(settings: dict[str, Any]) -> str:
    """As ``--set`` takes them."""
    def value(v: Any) -> str:
        return ",".join(map(str, v)) if isinstance(v, tuple | list) else str(v).lower()

    return " ".join(f"{name}={value(v)}" for name, v in settings.items())
