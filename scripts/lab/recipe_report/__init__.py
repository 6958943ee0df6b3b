"""Studies of small tasks, arm by arm, and of all recipes side by side: tables and pictures."""
