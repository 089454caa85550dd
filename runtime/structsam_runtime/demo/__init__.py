"""A page that answers clicks, and the HTTP interface underneath it."""
