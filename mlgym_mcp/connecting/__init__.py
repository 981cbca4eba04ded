"""Putting the server into the configuration files of its clients, and nothing else in them out of place."""
