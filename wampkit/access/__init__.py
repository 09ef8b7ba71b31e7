"""May this peer connect? By address, host, origin, and what proxies say of them."""
