"""Accounts: names, passwords, links, sessions, and how fast one may guess."""

from __future__ import annotations

import threading
import unicodedata
from dataclasses import dataclass
from typing import Any

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling_ui.accounts import LINK_SECONDS, SESSION_SECONDS, Accounts
from labeling_ui.passwords import check_password, clean_name, folded, verify_password
from labeling_ui.store import open_store
from labeling_ui.tables import Event, Labeler
from labeling_ui.throttle import ADDRESS_SECONDS, ADDRESS_TRIES, Throttled, wait_after
from pipeline.errors import UserError

PASSWORD = "correct horse battery"
HERE = "127.0.0.1"
ODD_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(place: str, clock: Clock) -> Accounts:
    return Accounts(open_store(place), clock)


def with_password(accounts: Accounts, name: str, role: str = "labeler") -> str:
    """A new account with a password; its session."""
    sid = accounts.choose_password(accounts.add(name, role), PASSWORD)
    assert sid is not None
    return sid


def guesses(accounts: Accounts, count: int, name: str = "ann", address: str = HERE) -> int:
    """How many of ``count`` wrong guesses were compared at all."""
    compared = 0
    for _ in range(count):
        try:
            assert accounts.sign_in(name, "wrong password", address) is None
            compared += 1
        except Throttled:
            pass
    return compared


# --- invitations ---------------------------------------------------------------------------------


def test_an_invitation_leads_to_a_password_once(accounts: Accounts, clock: Clock) -> None:
    token = accounts.add("ann")
    assert accounts.invited(token) == "ann"
    assert accounts.sign_in("ann", PASSWORD, HERE) is None  # there is no password yet
    for bad in ("short", "x" * 201, "ann", "aaaaaaaaaaaa", "half \ud83d a password"):
        with pytest.raises(UserError, match="password"):
            accounts.choose_password(token, bad)
    sid = accounts.choose_password(token, PASSWORD)
    assert sid is not None
    labeler = accounts.labeler_of(sid)
    assert labeler is not None
    assert (labeler.name, labeler.role) == ("ann", "labeler")
    assert accounts.invited(token) is None
    assert accounts.choose_password(token, "another password") is None
    assert accounts.sign_in("ann", PASSWORD, HERE) is not None
    assert accounts.sign_in("ann", "another password", HERE) is None


def test_links_grow_old_and_serve_one_purpose(accounts: Accounts, clock: Clock) -> None:
    invite = accounts.add("ann")
    with_password(accounts, "bob")
    assert accounts.enter(invite) is None
    enter = accounts.new_link(1)
    assert accounts.invited(enter) is None
    assert accounts.choose_password(enter, PASSWORD) is None
    clock.now += LINK_SECONDS["enter"] + 1
    assert accounts.enter(enter) is None
    assert accounts.invited(invite) == "ann"
    clock.now += LINK_SECONDS["invite"]
    assert accounts.invited(invite) is None
    assert accounts.choose_password(invite, PASSWORD) is None


def test_a_link_to_enter_works_once_even_for_two_at_once(accounts: Accounts) -> None:
    accounts.add("ann")
    token = accounts.new_link(1)
    sids: list[str | None] = []
    threads = [threading.Thread(target=lambda: sids.append(accounts.enter(token))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sids) == 4
    assert sum(sid is not None for sid in sids) == 1


# --- sessions ------------------------------------------------------------------------------------


def test_sessions_end(accounts: Accounts, clock: Clock) -> None:
    first, second = with_password(accounts, "ann"), accounts.sign_in("ann", PASSWORD, HERE)
    assert second is not None
    assert second != first
    accounts.sign_out(first)
    assert accounts.labeler_of(first) is None
    assert accounts.labeler_of(second) is not None
    clock.now += SESSION_SECONDS + 1
    assert accounts.labeler_of(second) is None


@pytest.mark.parametrize("sid", ["", "x", "x" * 5000, "' OR 1=1; --", "é\0", "\ud83d"])
def test_what_is_no_session_is_nobody(accounts: Accounts, sid: str) -> None:
    with_password(accounts, "ann")
    assert accounts.labeler_of(sid) is None
    assert accounts.enter(sid) is None
    assert accounts.invited(sid) is None
    accounts.sign_out(sid)


def test_reset_and_disable_end_everything_at_once(accounts: Accounts) -> None:
    sid = with_password(accounts, "ann")
    link = accounts.new_link(1)
    again = accounts.reset("ann")
    assert accounts.labeler_of(sid) is None
    assert accounts.enter(link) is None
    assert accounts.sign_in("ann", PASSWORD, HERE) is None
    sid = accounts.choose_password(again, "another good password")
    assert sid is not None
    link = accounts.new_link(1)
    accounts.disable("ann")
    assert accounts.labeler_of(sid) is None
    assert accounts.enter(link) is None
    assert accounts.sign_in("ann", "another good password", HERE) is None
    with pytest.raises(UserError, match="enable the account first"):
        accounts.reset("ann")
    accounts.enable("ann")
    assert accounts.sign_in("ann", "another good password", HERE) is not None
    assert accounts.labeler_of(sid) is None


# --- names and roles -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["o'Neill", '"; DROP TABLE labeler; --', "Zoë", "名前", "<b>x</b>"]
)
def test_any_visible_name_will_do(accounts: Accounts, name: str) -> None:
    with_password(accounts, name)
    assert accounts.sign_in(f"  {name.upper()} ", PASSWORD, HERE) is not None
    assert [account.name for account in accounts.list()] == [name]


@pytest.mark.parametrize(
    "name", ["", "  ", "a\nb", "a\0b", "a\u2028b", "\u202eann", "x" * 101, "a\ud83d"]
)
def test_names_that_cannot_be_seen_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(UserError, match="name"):
        accounts.add(name)
    assert accounts.list() == []
    assert accounts.sign_in(name, PASSWORD, HERE) is None


def test_one_name_in_two_spellings_is_one_account(accounts: Accounts) -> None:
    accounts.add("Zoë")
    for other in ("zoe\u0308", "ZOË", " Zoë "):
        with pytest.raises(UserError, match="is there already"):
            accounts.add(other)
    assert folded("Zoe\u0308") == folded("ZOË")
    assert clean_name(" Zoe\u0308 ") == "Zoë"


@given(name=st.text(max_size=120))
def test_a_name_is_kept_composed_and_trimmed_or_refused(name: str) -> None:
    try:
        kept = clean_name(name)
    except UserError:
        composed = unicodedata.normalize("NFC", name).strip()
        odd = any(unicodedata.category(c) in ODD_CATEGORIES for c in composed)
        assert odd or not 1 <= len(composed) <= 100
        return
    assert kept == unicodedata.normalize("NFC", name).strip()
    assert not any(unicodedata.category(c) in ODD_CATEGORIES for c in kept)
    assert clean_name(f" {kept}\n") == kept
    decomposed = unicodedata.normalize("NFD", kept)
    assert folded(decomposed) == folded(kept)


def test_an_admin_always_remains(accounts: Accounts) -> None:
    with_password(accounts, "ann", "admin")
    with_password(accounts, "bob", "lead")
    for act in (lambda: accounts.disable("ann"), lambda: accounts.set_role("ann", "lead")):
        with pytest.raises(UserError, match="last admin"):
            act()
    accounts.set_role("bob", "admin")
    accounts.disable("ann")
    with pytest.raises(UserError, match="last admin"):
        accounts.disable("bob")
    with pytest.raises(UserError, match="no role"):
        accounts.set_role("bob", "root")
    with pytest.raises(UserError, match="is unknown"):
        accounts.disable("eva")


def test_scripts_and_imported_labelers_never_come_in(place: str) -> None:
    store = open_store(place)
    accounts = Accounts(store)
    robot = store.add_labeler("robot", scripted=True).id
    imported = store.add_labeler("file: labeler-1").id
    assert accounts.list() == []
    for labeler in (robot, imported):
        assert accounts.enter(accounts.new_link(labeler)) is None
    for name in ("robot", "ROBOT", "file: labeler-1", "File: labeler-1", "file: labeler-2"):
        with pytest.raises(UserError, match="unknown"):
            accounts.reset(name)
        with pytest.raises(UserError, match="is there already"):
            accounts.add(name)


def test_what_is_done_to_accounts_is_noted(place: str) -> None:
    store = open_store(place)
    accounts = Accounts(store)
    with_password(accounts, "ann", "admin")
    accounts.add("bob", "labeler", by=1)
    accounts.disable("bob", by=1)
    with store.reading() as session:
        events = [(e.action, e.labeler_id, e.detail["name"]) for e in session.query(Event)]
    assert sorted(events, key=str) == sorted(
        [
            ("account added", None, "ann"),
            ("password chosen", 1, "ann"),
            ("account added", 1, "bob"),
            ("account disabled", 1, "bob"),
        ],
        key=str,
    )


# --- passwords -----------------------------------------------------------------------------------


def test_passwords_are_argon2_hashes_and_old_ones_are_made_anew(place: str) -> None:
    store = open_store(place)
    accounts = Accounts(store)
    with_password(accounts, "ann")
    weak = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    with store.writing() as session:
        labeler = session.get_one(Labeler, 1)
        assert labeler.password_hash is not None
        assert labeler.password_hash.startswith("$argon2id$")
        assert PasswordHasher().verify(labeler.password_hash, PASSWORD)
        labeler.password_hash = weak
    assert accounts.sign_in("ann", PASSWORD, HERE) is not None
    with store.reading() as session:
        stored = session.get_one(Labeler, 1).password_hash
    assert stored != weak
    assert verify_password(stored, PASSWORD)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(password=st.text(min_size=10, max_size=40), other=st.text(max_size=40))
def test_a_password_opens_and_another_does_not(password: str, other: str) -> None:
    try:
        check_password(password, "ann")
    except UserError:
        return
    hasher = PasswordHasher(time_cost=1, memory_cost=64)
    composed = unicodedata.normalize("NFC", password)
    stored = hasher.hash(composed)
    assert verify_password(stored, password)
    assert verify_password(stored, other) == (unicodedata.normalize("NFC", other) == composed)
    assert not verify_password(None, password)


# --- guessing ------------------------------------------------------------------------------------


def test_guessing_at_an_account_gets_slower(accounts: Accounts, clock: Clock) -> None:
    with_password(accounts, "ann")
    assert guesses(accounts, 20) == 5
    with pytest.raises(Throttled):
        accounts.sign_in("ANN ", PASSWORD, "10.0.0.9")  # whoever it is, from wherever
    waits = [30, 60, 120, 240, 480, 900, 900]
    for wait in waits:
        clock.now += wait - 1
        assert guesses(accounts, 3) == 0
        clock.now += 1
        assert guesses(accounts, 3) == 1
    clock.now += 900
    assert accounts.sign_in("ann", PASSWORD, HERE) is not None
    assert guesses(accounts, 20) == 5


def test_the_waits_are_those_that_are_promised() -> None:
    assert [wait_after(count) for count in (0, 4, 5, 6, 9, 10, 1000)] == [
        0,
        0,
        30,
        60,
        480,
        900,
        900,
    ]


def test_a_restart_forgives_nothing(place: str, clock: Clock) -> None:
    accounts = Accounts(open_store(place), clock)
    with_password(accounts, "ann")
    guesses(accounts, 5)
    assert guesses(Accounts(open_store(place), clock), 3) == 0


def test_guessing_from_one_address_is_stopped(accounts: Accounts, clock: Clock) -> None:
    compared = sum(guesses(accounts, 1, name=f"name {i}") for i in range(ADDRESS_TRIES + 10))
    assert compared == ADDRESS_TRIES
    assert guesses(accounts, 1, name="somebody", address="10.0.0.9") == 1
    clock.now += ADDRESS_SECONDS + 1
    assert guesses(accounts, 3, name="somebody else") == 3


def test_right_passwords_do_not_count_against_an_address(accounts: Accounts) -> None:
    with_password(accounts, "ann")
    for _ in range(3):
        assert accounts.sign_in("ann", PASSWORD, HERE) is not None
    assert guesses(accounts, ADDRESS_TRIES, name="other") == 5


def test_many_guesses_at_once_are_no_more_than_many_in_a_row(place: str) -> None:
    store = open_store(place)
    accounts = Accounts(store)
    with_password(accounts, "ann")
    results: list[Any] = []

    def guess() -> None:
        try:
            results.append(accounts.sign_in("ann", "wrong password", HERE))
        except Throttled:
            results.append("throttled")

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [None] * 5 + ["throttled"] * 7


def test_an_unknown_name_is_slowed_down_alike_and_nothing_of_it_is_kept(place: str) -> None:
    store = open_store(place)
    accounts = Accounts(store)
    assert guesses(accounts, 8, name="PLANTED-NAME") == 5
    with store.reading() as session:
        rows = session.connection().exec_driver_sql("SELECT * FROM sign_in_failures").all()
    assert len(rows) == 2
    assert "PLANTED" not in str(rows).upper().replace("ADDRESS", "")
