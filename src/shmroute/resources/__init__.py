"""Watched kinds: their objects as values, and the rules that make an object valid."""
