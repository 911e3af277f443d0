"""The demo's gunicorn settings; each version of gunicorn ignores those that it does not know."""

loglevel = "warning"
control_socket_disable = True
