"""Generated from protos/edgenode/v1; see protos/generate.py."""
