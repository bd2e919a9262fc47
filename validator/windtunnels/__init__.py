"""Tasks whose ground truth is exact: every step's verdict, and what a perfect reasoner believes."""
