"""Topics, their subscribers, and the brokers that carry events."""
