"""YAML shipped with the package; its keys are constructor arguments."""
