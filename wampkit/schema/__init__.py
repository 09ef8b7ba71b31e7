"""An app described: its routes with their parameters."""
