"""Masking single weights."""
