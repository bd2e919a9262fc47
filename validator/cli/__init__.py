"""The ``validator`` command: one module per subcommand, parsing and printing only."""
