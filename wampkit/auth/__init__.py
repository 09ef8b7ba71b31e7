"""Authentication: WAMP-CRA over the socket, one-time tickets, and the keys behind them."""
