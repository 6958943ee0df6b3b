"""One module a family of policies: its networks, the losses they are scored by, the sizes that must follow a cut."""
