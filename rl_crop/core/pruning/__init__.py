"""Removing units: settings, allocation, plan, surgery and repair."""
