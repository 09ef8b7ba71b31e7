"""Descriptions of an app: its routes with their parameters."""
