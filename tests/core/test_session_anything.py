"""Whatever a server sends, the session takes it: nothing raises, and every request is accounted for."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.core.actions import Answered, Ended, Failed, Tokens
from wsclient.core.requests import RequestKind
from wsclient.core.session import Session
from wsclient.errors import ProtocolError

from ..support.any_messages import IDS, json_values, messages
from .sessions import LOST, logged_in, make_session, of_kind, opened, request

KINDS = [RequestKind.GENERATION, RequestKind.GENERATION, RequestKind.MODELS, RequestKind.PING, RequestKind.STOP]
anything = st.lists(st.one_of(messages, messages, json_values, st.just(ProtocolError("not JSON"))), max_size=12)
fast = settings(deadline=None, database=None, max_examples=100)


def with_requests() -> Session:
    session = logged_in()
    for id, kind in zip(IDS, KINDS, strict=True):
        opened(session, request(id, kind))
    return session


@fast
@given(values=anything)
def test_nothing_before_the_login_raises(values: list[Any]) -> None:
    session = make_session()
    session.dial(0)
    session.opened(0)
    session.receive(values, 1)
    session.signed(1)
    session.receive(values, 1)


@fast
@given(batches=st.lists(anything, max_size=4))
def test_nothing_after_the_login_raises_and_each_request_has_one_outcome(batches: list[list[Any]]) -> None:
    session = with_requests()
    outcomes: list[str] = []
    for now, values in enumerate(batches, 1):
        actions = session.receive(values, now)
        ended_here: set[str] = set()
        for action in actions:
            if isinstance(action, Ended | Answered | Failed):
                outcomes.append(action.sink.name)
                ended_here.add(action.sink.name)
            elif isinstance(action, Tokens):
                assert action.sink.name not in ended_here
                assert action.text == "".join(action.tokens)
    outcomes += [action.sink.name for action in of_kind(session.lost(LOST, 10), Failed)]
    assert sorted(outcomes) == sorted(IDS)


@fast
@given(values=st.lists(messages, max_size=12))
def test_it_does_not_matter_how_the_messages_were_cut_into_batches(values: list[Any]) -> None:
    whole, single = with_requests(), with_requests()
    whole.receive(values, 1)
    for value in values:
        single.receive([value], 1)
    assert whole.tokens == single.tokens
    assert whole.ignored_messages == single.ignored_messages
    assert [r.id for r in whole.requests.take_all()] == [r.id for r in single.requests.take_all()]
