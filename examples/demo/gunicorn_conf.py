"""The demo's gunicorn settings; those that a version does not know it leaves aside."""

loglevel = "warning"
control_socket_disable = True
