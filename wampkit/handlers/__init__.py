"""The app's own functions and how they are called."""
