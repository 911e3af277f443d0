"""The command `shmroute`."""


def main() -> None:
    raise SystemExit(2)
