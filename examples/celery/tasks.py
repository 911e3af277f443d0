import os

from celery import Celery

from shmroute import resolve

app = Celery("tasks", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])


@app.task
def where(model):
    return {"app": resolve(model).app, "worker": os.getpid()}
