"""What is cut together: the graph of a network, its units and their groups."""
