"""``validator watch``: what a model writes, each token coloured by the running score."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from validator.cli.console import add_command, console, error_console
from validator.errors import ParameterError

if TYPE_CHECKING:
    from validator.plugins.monitor import Anomaly, StepSeen, TokenSeen, ValidityMonitor

__all__ = ["register"]

MODEL = "smollm2-135m-instruct"


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = add_command(
        subparsers, "watch",
        "Watch a model write: each token as it comes, coloured by P(valid so far).",
        "validator watch --one-step 'Tom has 3 pens and buys 4 more. How many pens does he have?'",
        run)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="text that is continued, as it stands")
    asked.add_argument("--prompt-file", type=Path, help="file with that text")
    asked.add_argument("--one-step", metavar="QUESTION",
                       help="a word problem, asked as the shipped classifier's training problems")
    parser.add_argument("--model", default=MODEL,
                        help=f"known name, hub id or folder (default: {MODEL})")
    parser.add_argument("--artifact", type=Path,
                        help="folder of fit_prefix_classifier (default: the one that ships for the "
                             "model)")
    parser.add_argument("--score", metavar="NAME",
                        help="a label-free score in place of a classifier, e.g. mean_logprob")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="default: 64")
    parser.add_argument("--temperature", type=float, default=0.6, help="default: 0.6; 0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, help="default: 1")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default: 0)")
    parser.add_argument("--stop", action="append", metavar="TEXT",
                        help="text that ends the answer, and is shown; may be repeated (with "
                             "--one-step: end of line)")
    parser.add_argument("--below", type=float, metavar="SCORE",
                        help="a score below it is an anomaly")
    parser.add_argument("--stop-on-anomaly", action="store_true", help="stop writing then")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Load, write, show."""
    if args.stop_on_anomaly and args.below is None:
        raise ParameterError("--stop-on-anomaly needs --below SCORE")
    from validator.models.loading import load_model
    from validator.plugins.monitor import ValidityMonitor

    prompt, stop = _asked(args)
    monitor = ValidityMonitor(
        load_model(args.model, device=args.device), artifact=args.artifact, score=args.score,
        anomaly_below=args.below, stop_on_anomaly=args.stop_on_anomaly).prepare()
    if monitor.scorer_ is None:
        error_console().print(f"no classifier of prefixes ships for {args.model}, so there is no "
                              "score; --artifact gives one of your own, --score a label-free one",
                              markup=False)
    if args.json:
        _json_lines(monitor, args, prompt, stop)
    elif console().is_terminal:
        _live(monitor, args, prompt, stop)
    else:
        _plain_lines(monitor, args, prompt, stop)
    return 0


def _asked(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """The prompt, and what ends the answer."""
    stop = tuple(args.stop or ())
    if args.one_step is not None:
        from validator.training.problems import prompt_format

        style = prompt_format("one-step")
        return style.prompt(args.one_step), stop or style.stop
    if args.prompt is not None:
        return args.prompt, stop
    try:
        return args.prompt_file.read_text(encoding="utf-8"), stop
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ParameterError(f"cannot read the prompt from {args.prompt_file}: {why}; give a text "
                             "file, or the prompt itself with --prompt") from error


def _write(
    monitor: ValidityMonitor, args: argparse.Namespace, prompt: str, stop: tuple[str, ...]
) -> dict[str, Any]:
    """Have the model write; what is said of it at the end."""
    from validator.plugins.monitor.writing import write_watched

    return write_watched(
        monitor, prompt, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
        top_p=args.top_p, seed=args.seed, stop=stop).to_json()


def _json_lines(
    monitor: ValidityMonitor, args: argparse.Namespace, prompt: str, stop: tuple[str, ...]
) -> None:
    """One JSON object a line, as things happen; the last is the result."""
    def tell(event: TokenSeen | StepSeen | Anomaly) -> None:
        _line(event.to_json())

    monitor.on_token = monitor.on_step = monitor.on_anomaly = tell
    _line({"event": "end", **_write(monitor, args, prompt, stop)})


def _line(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def _plain_lines(
    monitor: ValidityMonitor, args: argparse.Namespace, prompt: str, stop: tuple[str, ...]
) -> None:
    """A line for each token."""
    out = console()

    def tell(token: TokenSeen) -> None:
        out.print(f"{token.index:4d}  {_number(token.score):>7}  {token.surprisal:6.2f}  "
                  f"{token.text!r}", markup=False, highlight=False)

    monitor.on_token, monitor.on_anomaly = tell, _anomaly_printer(out.print)
    out.print("token    score  -log p  text", markup=False)
    out.print(_summary(_write(monitor, args, prompt, stop)), markup=False, highlight=False)


def _live(
    monitor: ValidityMonitor, args: argparse.Namespace, prompt: str, stop: tuple[str, ...]
) -> None:
    """The text in colour, and below it the score."""
    text, probability = Text(), args.score is None
    notes: list[str] = []
    with Live(Panel(text), console=console(), refresh_per_second=12) as live:
        def tell(token: TokenSeen) -> None:
            text.append(token.text, style=token_style(token.score, probability))
            title = f"token {token.index + 1}  score {_number(token.score)}"
            live.update(Panel(text, title=title, title_align="left",
                              subtitle=notes[-1] if notes else None))

        monitor.on_token = tell
        monitor.on_anomaly = _anomaly_printer(notes.append)
        ended = _write(monitor, args, prompt, stop)
    console().print(_summary(ended), markup=False, highlight=False)


def _anomaly_printer(show: Callable[[str], object]) -> Callable[[Anomaly], None]:
    def tell(found: Anomaly) -> None:
        after = "stopped" if found.stopped else "going on"
        show(f"anomaly at token {found.index + 1}: score {found.score:.3f} is below "
             f"{found.threshold:g}; {after}")

    return tell


def token_style(score: float | None, probability: bool) -> str:
    """Colour of a token: red at P(valid) 0, over grey, to green at 1; none without P(valid)."""
    if score is None or not probability:
        return "default"
    share = min(max(score, 0.0), 1.0)
    red, green = round(220 * (1 - share)), round(170 * share)
    return f"rgb({red},{green},60)"


def _summary(ended: dict[str, Any]) -> str:
    how = "stopped by the monitor" if ended["stopped"] else (
        "finished" if ended["finished"] else "cut off by the token limit")
    return (f"{ended['tokens']} tokens, {how}; score {_number(ended['score'])}, mean log-prob "
            f"{_number(ended['mean_logprob'])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
