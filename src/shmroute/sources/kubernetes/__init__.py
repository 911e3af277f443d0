"""The API server as a source: list, watch, probe and audit of one resource."""
