"""What scripts are made of; none of it is run by itself."""
