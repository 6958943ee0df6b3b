"""What measures this project: benchmarks, fuzz, probes, and the data sets and networks of its studies. Not installed."""
