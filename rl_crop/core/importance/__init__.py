"""How much units and weights matter."""
