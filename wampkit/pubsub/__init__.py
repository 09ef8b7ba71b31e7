"""Topics, their subscribers, and what carries events."""
