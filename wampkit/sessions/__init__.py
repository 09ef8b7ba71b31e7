"""What the web site's session says of a client."""
