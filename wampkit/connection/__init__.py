"""One socket: in, out, alive, closed; and the register of all of them."""
