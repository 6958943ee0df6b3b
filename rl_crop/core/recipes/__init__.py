"""Methods as recipes, and the engine that carries them through a run."""
