"""Manifest files: read YAML and JSON, and split each file into its objects."""
