"""Confluent's protocol, call by call, over HTTP, on both stores."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from oncebox.registry.protocol import CONTENT_TYPE, guid
from test_registry import ORDER, server, subject

__all__ = ["server", "subject"]

WIDER = ORDER.replace('"string"}]', '"string"},{"name":"note","type":"string","default":""}]')
BROKEN = ORDER.replace('"string"', '"long"')
LINE = '{"type":"record","name":"Line","fields":[{"name":"order","type":"Order"}]}'


class Http:
    """Requests, and what is answered: (status, JSON)."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, headers={"Content-Type": CONTENT_TYPE})

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.client.request(method, path, json=body)
        assert answer.headers["content-type"] == CONTENT_TYPE
        return answer.status_code, answer.json()

    def get(self, path: str) -> Any:
        status, found = self.ask("GET", path)
        assert status == 200, found
        return found

    def register(self, subject: str, text: str, **more: Any) -> int:
        status, found = self.ask("POST", f"/subjects/{subject}/versions", {"schema": text} | more)
        assert status == 200, found
        return int(found["id"])

    def refused(self, method: str, path: str, body: Any = None) -> int:
        """The error's code; its status is in front of it."""
        status, found = self.ask(method, path, body)
        assert found["message"] and str(found["error_code"]).startswith(str(status)), found
        return int(found["error_code"])


@pytest.fixture
def http(server: Any) -> Any:
    made = Http(server.url)
    yield made
    made.client.close()


def test_versions_ids_and_contents(http: Http, subject: str) -> None:
    first, second = http.register(subject, ORDER), http.register(subject, WIDER)
    assert http.register(subject, f" {ORDER}\n") == first, "white space means nothing"
    assert http.register(f"{subject}-b", ORDER) == first, "one id for one content"
    assert http.get(f"/subjects/{subject}/versions") == [1, 2]
    whole = http.get(f"/subjects/{subject}/versions/latest")
    assert whole == {
        "subject": subject, "version": 2, "id": second, "guid": guid(WIDER),
        "schemaType": "AVRO", "schema": WIDER,
    }  # fmt: skip
    assert http.get(f"/subjects/{subject}/versions/-1") == whole
    assert http.get(f"/subjects/{subject}/versions/1/schema")["name"] == "Order"
    assert http.get(f"/schemas/ids/{first}")["schema"] == ORDER
    assert http.get(f"/schemas/ids/{first}/schema") == http.get(
        f"/subjects/{subject}/versions/1/schema"
    )
    assert http.get(f"/schemas/ids/{first}/subjects") == [subject, f"{subject}-b"]
    assert http.get(f"/schemas/ids/{second}/versions") == [{"subject": subject, "version": 2}]
    assert http.get(f"/schemas/guids/{guid(ORDER)}")["schema"] == ORDER
    assert http.get(f"/schemas/guids/{guid(ORDER)}/ids") == [{"context": ".", "id": first}]
    assert http.get(f"/subjects?subjectPrefix={subject}") == [subject, f"{subject}-b"]
    assert http.get(f"/subjects?subjectPrefix={subject}&offset=1&limit=1") == [f"{subject}-b"]
    latest = http.get(f"/schemas?subjectPrefix={subject}&latestOnly=true")
    assert [(one["subject"], one["version"]) for one in latest] == [
        (subject, 2),
        (f"{subject}-b", 1),
    ]
    assert http.ask("POST", f"/subjects/{subject}", {"schema": ORDER})[1]["version"] == 1
    assert http.get("/schemas/types") == ["AVRO", "JSON", "PROTOBUF"]
    assert (http.get("/"), http.get("/contexts")) == ({}, ["."])


def test_names_may_have_any_sign(http: Http, subject: str) -> None:
    for name in ("a%2Fversions", "%C3%A9%20%3F", "x%25y", "%3A.%3Aplain"):
        id = http.register(f"{subject}{name}", ORDER)
        assert http.get(f"/subjects/{subject}{name}/versions/1")["id"] == id
    assert f"{subject}a/versions" in http.get("/subjects")


def test_what_is_not_there_is_told_by_its_code(http: Http, subject: str) -> None:
    http.register(subject, ORDER)
    for method, path, code in [
        ("GET", "/subjects/nobody/versions", 40401),
        ("GET", "/subjects/nobody/versions/1", 40401),
        ("GET", f"/subjects/{subject}/versions/9", 40402),
        ("GET", f"/subjects/{subject}/versions/0", 42202),
        ("GET", f"/subjects/{subject}/versions/x", 42202),
        ("GET", f"/subjects/{subject}/versions/99999999999", 42202),
        ("GET", "/schemas/ids/2000000000", 40403),
        ("GET", "/schemas/ids/x", 404),
        ("GET", "/schemas/guids/none", 40403),
        ("GET", f"/config/{subject}", 40408),
        ("GET", f"/mode/{subject}", 40409),
        ("GET", "/nowhere", 404),
        ("PATCH", "/subjects", 405),
        ("DELETE", "/subjects/nobody", 40401),
        ("DELETE", f"/subjects/{subject}/versions/9", 40402),
        ("DELETE", f"/subjects/{subject}/versions/1?permanent=true", 40407),
        ("DELETE", f"/subjects/{subject}?permanent=true", 40405),
    ]:
        assert http.refused(method, path) == code, (method, path)
    assert http.refused("POST", f"/subjects/{subject}", {"schema": WIDER}) == 40403
    assert http.refused("POST", "/subjects/nobody", {"schema": ORDER}) == 40401


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"schema": ""}, 42201),
        ({"schema": "{"}, 42201),
        ({"schema": '{"type":"nothing"}'}, 42201),
        ({"schema": "[" * 5000}, 42201),
        ({"schema": ORDER, "schemaType": "XML"}, 42201),
        ({"schema": LINE}, 42201),
        ({"schema": LINE, "references": [{"name": "Order", "subject": "x", "version": 9}]}, 42201),
        ({"schema": f'"{"x" * 1_100_000}"'}, 42209),
        ({"schema": "x" * 6_000_000}, 413),
        (
            {"schema": ORDER, "references": [{"name": "a", "subject": "s", "version": 1}] * 101},
            42201,
        ),
        ({"schema": ORDER, "id": 7}, 42205),
        ({"schema": ORDER, "version": 2**63}, 400),
        ({"schema": ORDER, "references": [{"name": "a", "subject": "s", "version": 2**63}]}, 400),
        ({"schema": 3}, 400),
        ([], 400),
    ],
    ids=str,
)
def test_what_is_no_schema_is_refused(http: Http, body: Any, code: int) -> None:
    assert http.refused("POST", "/subjects/bad/versions", body) == code


@pytest.mark.parametrize("said", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_a_page_of_any_website_could_send_is_refused(server: Any, said: str | None) -> None:
    headers = {} if said is None else {"Content-Type": said}
    url = f"{server.url}/subjects/page/versions"
    answer = httpx.post(url, content=json.dumps({"schema": ORDER}), headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (415, 415)


def test_subjects_without_a_name_are_refused(http: Http) -> None:
    for name in ("%00", "a%0Ab", "%FF", "x" * 256, "%3A.other%3Ax"):
        assert http.refused("POST", f"/subjects/{name}/versions", {"schema": ORDER}) == 42208


def test_a_version_is_deleted_softly_then_for_good(http: Http, subject: str) -> None:
    order, wider = (text.replace("Order", f"O{subject[2:]}") for text in (ORDER, WIDER))
    first, second = http.register(subject, order), http.register(subject, wider)
    assert http.ask("DELETE", f"/subjects/{subject}/versions/1") == (200, 1)
    assert http.get(f"/subjects/{subject}/versions") == [2]
    assert http.get(f"/subjects/{subject}/versions?deleted=true") == [1, 2]
    assert http.get(f"/subjects/{subject}/versions?deletedOnly=true") == [1]
    assert http.get(f"/schemas/ids/{first}")["schema"] == order, "old records stay readable"
    assert http.refused("DELETE", f"/subjects/{subject}/versions/1") == 40406
    assert http.refused("GET", f"/subjects/{subject}/versions/1") == 40402
    assert http.get(f"/subjects/{subject}/versions/1?deleted=true")["deleted"] is True
    assert http.ask("DELETE", f"/subjects/{subject}/versions/1?permanent=true") == (200, 1)
    assert http.refused("GET", f"/schemas/ids/{first}") == 40403
    assert http.register(subject, order) == first, "an id is for ever"
    assert http.ask("DELETE", f"/subjects/{subject}") == (200, [2, 3])
    assert http.refused("DELETE", f"/subjects/{subject}/versions/latest") == 40401
    assert http.refused("GET", f"/subjects/{subject}/versions") == 40401
    assert http.refused("DELETE", f"/subjects/{subject}") == 40404
    assert subject in http.get("/subjects?deleted=true")
    assert http.ask("DELETE", f"/subjects/{subject}?permanent=true") == (200, [2, 3])
    assert subject not in http.get("/subjects?deleted=true")
    assert http.refused("GET", f"/schemas/ids/{second}") == 40403


def test_what_others_refer_to_cannot_be_deleted(http: Http, subject: str) -> None:
    http.register(f"{subject}-order", ORDER)
    refers = [{"name": "Order", "subject": f"{subject}-order", "version": 1}]
    line = http.register(subject, LINE, references=refers)
    assert http.get(f"/schemas/ids/{line}")["references"] == refers
    assert http.get(f"/subjects/{subject}-order/versions/1/referencedby") == [line]
    assert http.refused("DELETE", f"/subjects/{subject}-order/versions/1") == 42206
    assert http.refused("DELETE", f"/subjects/{subject}-order") == 42206
    http.ask("DELETE", f"/subjects/{subject}")
    assert http.ask("DELETE", f"/subjects/{subject}-order")[0] == 200
    assert http.refused("DELETE", f"/subjects/{subject}-order?permanent=true") == 42206
    http.ask("DELETE", f"/subjects/{subject}?permanent=true")
    assert http.ask("DELETE", f"/subjects/{subject}-order?permanent=true")[0] == 200


def test_a_break_is_refused_with_its_proof(http: Http, subject: str) -> None:
    http.register(subject, ORDER)
    place = f"/subjects/{subject}/versions"
    assert http.refused("POST", place, {"schema": BROKEN}) == 409
    found = http.ask("POST", f"/compatibility{place}/latest?verbose=true", {"schema": BROKEN})[1]
    assert found["is_compatible"] is False and "Proof: " in found["messages"][0]
    for path, text, fine in [("/latest", BROKEN, False), ("/1", WIDER, True), ("", BROKEN, False)]:
        answer = http.ask("POST", f"/compatibility{place}{path}", {"schema": text})
        assert answer == (200, {"is_compatible": fine})
    assert http.refused("POST", f"/compatibility{place}/7", {"schema": ORDER}) == 40402
    assert http.ask("POST", "/compatibility/subjects/nobody/versions", {"schema": ORDER}) == (
        200, {"is_compatible": True},
    )  # fmt: skip
    verbose = http.ask("POST", f"/compatibility{place}?verbose=true", {"schema": "{"})[1]
    assert verbose["is_compatible"] is False and verbose["messages"]
    proto = {"schema": 'syntax = "proto3"; message Order {}', "schemaType": "PROTOBUF"}
    assert http.refused("POST", place, proto) == 409, "another format reads nothing of it"


def test_levels(http: Http, subject: str) -> None:
    """By default all earlier versions count: what was removed must not come back as another."""
    removed = '{"type":"record","name":"Order","fields":[]}'
    http.register(subject, ORDER)
    http.register(subject, removed)
    again = ORDER.replace('"type":"string"', '"type":"long","default":0')
    place = f"/subjects/{subject}/versions"
    assert http.get("/config") == {"compatibilityLevel": "BACKWARD_TRANSITIVE"}
    assert http.refused("POST", place, {"schema": again}) == 409
    said = {"compatibility": "BACKWARD"}
    assert http.ask("PUT", f"/config/{subject}", said) == (200, said)
    assert http.get(f"/config/{subject}") == {"compatibilityLevel": "BACKWARD"}
    assert http.register(subject, again)
    assert http.ask("DELETE", f"/config/{subject}") == (200, {"compatibilityLevel": "BACKWARD"})
    assert http.refused("DELETE", f"/config/{subject}") == 40401
    assert (
        http.get(f"/config/{subject}?defaultToGlobal=true")["compatibilityLevel"]
        == "BACKWARD_TRANSITIVE"
    )
    http.ask("PUT", f"/config/{subject}", {"compatibility": "none"})
    assert http.register(subject, BROKEN)
    for bad in ({"compatibility": "SIDEWAYS"}, {}, {"compatibility": 3}):
        assert http.refused("PUT", f"/config/{subject}", bad) == 42203
    assert http.refused("PUT", f"/config/{subject}", {"alias": "x"}) == 42205


def test_normalize(http: Http, subject: str) -> None:
    turned = '{"name":"Order","type":"record","fields":[{"type":"string","name":"id"}]}'
    _, first = http.ask("POST", f"/subjects/{subject}/versions?normalize=true", {"schema": ORDER})
    _, second = http.ask("POST", f"/subjects/{subject}/versions?normalize=true", {"schema": turned})
    assert first["id"] == second["id"]
    assert http.register(subject, turned) != first["id"]
    http.ask("PUT", f"/config/{subject}", {"normalize": True})
    assert http.register(subject, turned) == first["id"]


def test_modes(http: Http, subject: str) -> None:
    id = http.register(subject, ORDER)
    place = f"/subjects/{subject}/versions"
    assert http.ask("PUT", f"/mode/{subject}", {"mode": "READONLY"}) == (200, {"mode": "READONLY"})
    assert http.refused("POST", place, {"schema": WIDER}) == 42205
    assert http.refused("DELETE", f"/subjects/{subject}") == 42205
    assert http.refused("PUT", f"/config/{subject}", {"compatibility": "NONE"}) == 42205
    assert http.refused("DELETE", f"/config/{subject}") == 42205
    assert http.register(subject, ORDER) == id, "nothing changes by it"
    assert http.get(f"/mode/{subject}") == {"mode": "READONLY"}
    assert http.refused("PUT", f"/mode/{subject}", {"mode": "IMPORT"}) == 42205
    assert http.refused("PUT", f"/mode/{subject}", {"mode": "UPSIDE"}) == 42204
    assert http.ask("DELETE", f"/mode/{subject}") == (200, {"mode": "READONLY"})
    assert http.get("/mode") == {"mode": "READWRITE"}
    http.ask("PUT", f"/mode/{subject}?force=true", {"mode": "IMPORT"})
    foreign, own = (ORDER.replace("Order", f"{c}{subject[2:]}") for c in "FO")
    assert http.register(subject, foreign, id=id + 5000, version=7) == id + 5000
    assert http.get(f"/subjects/{subject}/versions") == [1, 7]
    assert http.refused("POST", place, {"schema": WIDER, "id": id}) == 42207
    assert http.refused("POST", place, {"schema": ORDER, "id": id + 1}) == 42207
    http.ask("DELETE", f"/mode/{subject}")
    http.ask("PUT", f"/config/{subject}", {"compatibility": "NONE"})
    assert http.register(subject, own) == id + 5001, "ids that were given are not given again"


def test_metadata_and_rules_are_kept_and_count(http: Http, subject: str) -> None:
    more = {"metadata": {"properties": {"owner": "shop"}}, "ruleSet": {"domainRules": []}}
    plain, rich = http.register(subject, ORDER), http.register(subject, ORDER, **more)
    assert plain != rich
    found = http.get(f"/schemas/ids/{rich}")
    assert (found["metadata"], found["ruleSet"]) == (more["metadata"], more["ruleSet"])
