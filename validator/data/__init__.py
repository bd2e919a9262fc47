"""Traces that ship with the package."""
