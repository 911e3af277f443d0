from shmroute.contrib.gunicorn import on_exit, post_fork, when_ready  # noqa: F401

workers = 4
bind = "127.0.0.1:8000"
