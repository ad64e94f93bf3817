"""HTTP: the protocol class, middleware, bodies, the page."""
