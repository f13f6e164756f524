"""Many who sign in at once: passwords are compared a few at a time, and nobody else waits."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import httpx

from labeling_ui import passwords
from labeling_ui.accounts import Accounts
from labeling_ui.app import create_app
from labeling_ui.desk import Desk, Place
from labeling_ui.sign_in import SignIn
from labeling_ui.store import open_store

PASSWORD = "correct horse battery"
AT_ONCE = 48  # more than the server has threads; fewer than an address may guess
PORT = 7860
HOST = f"http://127.0.0.1:{PORT}"


def test_who_waits_for_a_password_holds_up_nobody(tmp_path: Path) -> None:
    store = open_store(tmp_path / "labels.db")
    accounts = Accounts(store)
    sid = accounts.choose_password(accounts.add("ann"), PASSWORD)
    app = create_app(Place(store, Desk(store), "demo", ""), SignIn(store, PORT), PORT)

    async def flood() -> list[int]:
        transport = httpx.ASGITransport(app)
        headers = {"Origin": HOST}
        async with httpx.AsyncClient(base_url=HOST, transport=transport, headers=headers) as client:
            with ExitStack() as held:
                for _ in range(passwords.HASHES_AT_ONCE):
                    held.enter_context(passwords.HASHING)
                guesses = [
                    asyncio.create_task(
                        client.post("/sign-in", data={"name": f"name {i}", "password": "wrong one"})
                    )
                    for i in range(AT_ONCE)
                ]
                await asyncio.sleep(1)  # until all of them wait
                assert not any(guess.done() for guess in guesses)
                cookie = {"Cookie": f"align_session_{PORT}={sid}"}
                for path in ("/healthz", "/label/config"):
                    answer = await asyncio.wait_for(client.get(path, headers=cookie), 10)
                    assert answer.status_code == 200
            return [answer.status_code for answer in await asyncio.gather(*guesses)]

    assert asyncio.run(flood()) == [401] * AT_ONCE
