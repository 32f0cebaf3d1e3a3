"""The server as one application."""

from fastapi import FastAPI

from gpu_server.app import create_app
from gpu_server.config import ServerSettings


def bodies(app: FastAPI) -> dict[str, dict[str, object]]:
    """Return the schemas of the JSON bodies that routes take, by name."""
    schema = app.openapi()
    found: dict[str, dict[str, object]] = {}
    for path in schema["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            body = content.get("application/json", {}).get("schema", {})
            for one in (body, *body.get("anyOf", ())):
                if name := one.get("$ref", "").rpartition("/")[2]:
                    found[name] = schema["components"]["schemas"][name]
    return found


def test_no_route_ignores_a_misspelt_key(tmp_path) -> None:
    found = bodies(create_app(ServerSettings(data_dir=tmp_path)))
    assert {"ReprocessRequest", "DomainModel", "PromoteRequest"} <= set(found)
    lax = {
        n for n, one in found.items() if one.get("additionalProperties") is not False
    }
    assert lax == set()
