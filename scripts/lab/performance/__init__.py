"""
Benchmarks: what pruning costs and what it saves, beside gradient steps of the same agent, its rivals and the limit.

All times of a row are of one run: arms take turns in rounds, and ratios are medians over rounds of what was measured side by
side. ``scripts/lab/benchmark.py`` is the command.
"""
