"""Self-contained HTML pages: the numbers, their plots, and how to make them again."""
