"""One message to its handler and back."""
