"""Accounts changed by several at the same time: as if it had been one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from labeling_ui.accounts import Accounts
from labeling_ui.store import Store, open_store
from pipeline.errors import UserError

PASSWORD = "correct horse battery"
ROUNDS = 8


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)


@pytest.fixture
def accounts(store: Store) -> Accounts:
    return Accounts(store)


def at_once(acts: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each returned, or the mistake it was told of; anything else is a failure."""
    results: list[Any] = [None] * len(acts)
    start = threading.Barrier(len(acts))

    def do(index: int) -> None:
        start.wait()
        try:
            results[index] = acts[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=do, args=(index,)) for index in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, UserError):
            raise result
    return results


@pytest.mark.parametrize("how", ["disable", "demote"])
def test_two_admins_cannot_remove_each_other(accounts: Accounts, how: str) -> None:
    for name in ("ann", "bob"):
        accounts.add(name, "admin")

    def remove(name: str) -> None:
        if how == "disable":
            accounts.disable(name)
        else:
            accounts.set_role(name, "labeler")

    for _ in range(ROUNDS):
        results = at_once([lambda: remove("ann"), lambda: remove("bob")])
        assert sum(isinstance(result, UserError) for result in results) == 1
        admins = [one.name for one in accounts.list() if one.role == "admin" and not one.disabled]
        assert len(admins) == 1
        for name in ("ann", "bob"):
            accounts.enable(name)
            accounts.set_role(name, "admin")


def test_one_name_is_given_once(accounts: Accounts) -> None:
    for number in range(ROUNDS):
        spellings = [f"zoë {number}", f"ZOË {number}", f"zoe\u0308 {number}", f" zoë {number}"]
        results = at_once([lambda name=name: accounts.add(name) for name in spellings])
        assert sum(isinstance(result, str) for result in results) == 1
        assert len(accounts.list()) == number + 1


@pytest.mark.parametrize("end", ["reset", "disable"])
@pytest.mark.parametrize("begin", ["enter", "choose", "sign in"])
def test_no_session_begun_meanwhile_outlives_a_reset(
    accounts: Accounts, store: Store, begin: str, end: str
) -> None:
    accounts.add("admin", "admin")
    accounts.add("ann")
    labeler = store.add_labeler("ann").id
    for _ in range(ROUNDS):
        token = accounts.reset("ann")
        if begin != "choose":
            accounts.choose_password(token, PASSWORD)
        link = accounts.new_link(labeler)
        begins: dict[str, Callable[[], str | None]] = {
            "enter": lambda link=link: accounts.enter(link),
            "choose": lambda token=token: accounts.choose_password(token, PASSWORD),
            "sign in": lambda: accounts.sign_in("ann", PASSWORD, "127.0.0.1"),
        }
        ends: dict[str, Callable[[], object]] = {
            "reset": lambda: accounts.reset("ann"),
            "disable": lambda: accounts.disable("ann"),
        }
        sid, _ = at_once([begins[begin], ends[end]])
        accounts.enable("ann")
        assert sid is None or accounts.labeler_of(sid) is None
