"""Web sessions: the client's session on the web site, read and written through its storage."""
