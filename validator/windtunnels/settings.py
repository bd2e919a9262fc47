"""The tunnels by name, and their settings as a command line and a file hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_type_hints

from validator.errors import ParameterError
from validator.windtunnels.bijection import BijectionTunnel
from validator.windtunnels.evidence import EvidenceTunnel
from validator.windtunnels.filter_sort import FilterSortTunnel
from validator.windtunnels.hmm import HMMTunnel
from validator.windtunnels.sula import SulaTunnel
from validator.windtunnels.tree import TreePathTunnel

__all__ = [
    "TUNNELS", "AnyTunnel", "PathTunnel", "changed_tunnel", "settings_of", "tunnel_class",
    "tunnel_from_json"]

PathTunnel = TreePathTunnel | FilterSortTunnel
"""Their answers are judged whole."""
AnyTunnel = PathTunnel | EvidenceTunnel

TUNNELS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    tunnel.name: tunnel for tunnel in (
        TreePathTunnel, FilterSortTunnel, BijectionTunnel, HMMTunnel, SulaTunnel)})
"""Name -> the class, whose arguments are the settings."""


def tunnel_class(name: str) -> Callable[..., Any]:
    """The class of a tunnel's name. Raises ParameterError for an unknown one."""
    if name not in TUNNELS:
        raise ParameterError(f"no tunnel {name!r}; there are: {', '.join(TUNNELS)}")
    return TUNNELS[name]


def settings_of(tunnel: Any) -> dict[str, Any]:
    """Every setting and its value, as JSON holds them once tuples are lists."""
    return dataclasses.asdict(tunnel)


def tunnel_from_json(name: str, settings: Mapping[str, Any]) -> Any:
    """The tunnel that :func:`settings_of` describes.

    Raises:
        ParameterError: an unknown tunnel or setting, or a value out of its range.
    """
    made = tunnel_class(name)
    _require_known(name, made, settings)
    return made(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def changed_tunnel(tunnel: Any, settings: Mapping[str, str]) -> Any:
    """The tunnel with some settings changed.

    Args:
        tunnel: whose other settings stay.
        settings: name -> its value as text; the values of a tuple are parted by commas.

    Raises:
        ParameterError: a setting the tunnel does not have, text that is no such value, or a value
            out of its range.
    """
    _require_known(tunnel.name, type(tunnel), settings)
    kinds = get_type_hints(type(tunnel))
    return dataclasses.replace(
        tunnel, **{name: _read(name, text, kinds[name]) for name, text in settings.items()})


def _require_known(name: str, made: Any, settings: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(made)]
    for setting in settings:
        if setting not in known:
            raise ParameterError(f"the tunnel {name!r} has no setting {setting!r}; it has: "
                                 f"{', '.join(known)}")


def _read(name: str, text: str, kind: Any) -> Any:
    """The value that text is, of a type that a tunnel's settings have."""
    read, wanted = _READERS[str(kind)]
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        raise ParameterError(f"{name} must be {wanted}, got {text!r}") from error


def _pair(text: str) -> tuple[int, int]:
    low, high = text.split(",")
    return int(low), int(high)


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    str(bool): (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    str(str): (str, "text"),
    str(int): (int, "a whole number"),
    str(float): (float, "a number"),
    str(tuple[int, int]): (_pair, "two whole numbers, LOW,HIGH"),
    str(tuple[str, ...]): (lambda text: tuple(text.split(",")), "words parted by commas"),
    str(int | None): (lambda text: None if text == "none" else int(text),
                      "a whole number or none"),
}
