"""Supervised tasks of the studies: data sets, networks and runs from YAML files."""
