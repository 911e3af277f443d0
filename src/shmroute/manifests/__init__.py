"""Manifest files: `decoding` reads YAML and JSON, `files` splits each file into its objects."""
