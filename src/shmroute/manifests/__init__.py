"""Manifest files: reading YAML and JSON, and which objects a file holds."""
