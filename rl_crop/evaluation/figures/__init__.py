"""Figures of a study, one kind a module. Every mark carries the cell that it is of, so that a page can filter it."""
