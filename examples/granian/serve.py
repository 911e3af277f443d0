from granian import Granian

from shmroute.contrib.granian import beside

if __name__ == "__main__":
    beside(Granian("app:app", interface="asgi", workers=4, port=8000)).serve()
