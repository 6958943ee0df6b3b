"""A package, so that its folders are not taken for the project's own (``scripts``, ``docs``)."""
