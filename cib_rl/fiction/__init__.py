"""A generated world of people, works and places that do not exist, for search agents that train on a CPU."""
