"""The errors of failed calls, which each adapter must raise as errors of its library too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from shmroute.errors import CallAttemptsFailed, CallFailed, CallModelNotFound, CallNoEndpoints
from tests.contrib.pods import PodProcess, Team


def check_failures(pods: Team, ask: Callable[[str], object], library: type[Exception]) -> CallAttemptsFailed:
    """Make calls of model "m" and of an unknown one fail; assert that each error is one of `library` and can be copied.

    Returns:
        The error of a call whose pods all refuse connections.
    """
    dead = [PodProcess(), PodProcess()]
    pods.publish(*dead)
    errors: list[tuple[CallFailed, type]] = []
    for model, kind in (("m", CallAttemptsFailed), ("none", CallModelNotFound), ("m", CallNoEndpoints)):
        if kind is CallNoEndpoints:
            pods.publish()
        with pytest.raises(library) as caught:
            ask(model)
        assert isinstance(caught.value, CallFailed)
        errors.append((caught.value, kind))
    for error, expected in errors:
        for each in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert isinstance(each, expected)
            assert isinstance(each, library)
            assert str(each) == str(error)
    refused = errors[0][0]
    assert isinstance(refused, CallAttemptsFailed)
    assert {attempt.endpoint for attempt in refused.attempts} == {pod.address for pod in dead}
    return refused
