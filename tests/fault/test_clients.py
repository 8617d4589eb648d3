"""What clients do that the agent must bear."""

import contextlib
import socket
import threading
import time

from tests.machine import Machine, Reply, free_port, wait_until


def test_silent_clients_do_not_take_every_thread(machine: Machine) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", machine.port)))
            peer.sendall(b"G")
        time.sleep(0.5)

        reply = machine.get("/healthz", timeout=12)

    assert reply.status == 200
    assert "Traceback" not in machine.log.read_text()


def test_a_created_resource_is_in_its_answer_though_the_next_one_deletes_it(
    machine: Machine,
) -> None:
    machine.post("/api/haproxy/pools", POOL)
    replies: dict[str, Reply] = {}
    path = "/api/haproxy/pools/po/members"

    def post() -> None:
        replies["post"] = machine.post(path, {"id": "m", "address": "127.0.0.1", **PORT})

    for round in range(5):
        # While this one reloads, both wait, and become one batch.
        body = {"id": f"l{round}", "protocol": "TCP", "protocol_port": free_port()}
        busy = threading.Thread(
            target=machine.post,
            args=("/api/haproxy/listeners", body | {"vip_address": "127.0.0.1"}),
        )
        busy.start()
        time.sleep(0.02)
        poster = threading.Thread(target=post)
        poster.start()
        time.sleep(0.01)
        deleted = machine.delete(f"{path}/m")
        poster.join()
        busy.join()

        created = replies["post"]
        assert (created.status, deleted.status) == (201, 204)
        assert created.json["id"] == "m"
        assert created.headers["ETag"]


def test_credentials_made_at_the_same_time_are_all_there(machine: Machine) -> None:
    secrets: dict[str, str] = {}

    def add(name: str) -> None:
        secrets[name] = machine.cli("credentials", "add", name).stdout.strip()

    adding = [threading.Thread(target=add, args=(f"u{number}",)) for number in range(5)]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()

    def is_known(secret: str) -> bool:
        headers = {"Authorization": f"Bearer {secret}"}
        return machine.get("/api/status", auth=False, headers=headers).status == 200

    assert len(set(secrets.values())) == 5
    assert all(wait_until(lambda secret=secret: is_known(secret), 2) for secret in secrets.values())


POOL = {"id": "po", "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"}
PORT = {"protocol_port": 9}
