"""Watched kinds: their objects as values, and the rules for a valid object."""
