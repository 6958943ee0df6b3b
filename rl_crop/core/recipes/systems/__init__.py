"""One file for each system with an outer loop of its own."""
