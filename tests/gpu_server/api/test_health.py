"""Health needs no token; readiness names what is missing; metrics are Prometheus' text."""

from prometheus_client.parser import text_string_to_metric_families


def test_health_is_answered_without_a_token(rest, rest_host) -> None:
    with rest_host.client() as stranger:
        for path in ("/healthz", "/api/v1/healthz"):
            assert stranger.get(path).json()["status"] == "up"


def test_everything_else_wants_a_token(rest, rest_host) -> None:
    schema = rest.http.get("/api/v1/openapi.json").json()
    paths = set(schema["paths"]) | {"/readyz", "/metrics", "/api/v1/openapi.json"}
    with rest_host.client() as stranger:
        for path in paths - {"/api/v1/healthz"}:
            for method in schema["paths"].get(path, {"get": None}):
                address = path.replace("{", "").replace("}", "")
                answer = stranger.request(method, address)
                assert answer.status_code == 401, (method, path)


def test_readiness_names_the_part_that_is_not_ready(rest) -> None:
    assert rest.http.get("/readyz").json() == {
        "ready": True,
        "parts": {"store": "ok", "disk": "ok"},
    }
    probes = rest.services.probes
    assert isinstance(probes, dict)
    probes["inference"] = lambda: "the child is starting"
    answer = rest.http.get("/api/v1/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["inference"] == "the child is starting"


def test_metrics_count_what_was_processed(rest) -> None:
    rest.add([10])
    rest.add([12])
    text = rest.http.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    frames = {
        sample.labels["state"]: sample.value for sample in families["frames"].samples
    }
    assert frames["processed"] == 2
    assert families["disk_free_bytes"].samples[0].value > 0
    for name in ("frame_stage_seconds", "ws_clients", "backlog_frames"):
        assert name in families


def test_stage_histogram_counts_each_result_once(rest) -> None:
    def count() -> float:
        text = rest.http.get("/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "frame_stage_seconds_count" and sample.labels == {
                    "stage": "decode"
                }:
                    return sample.value
        return 0.0

    rest.lab.add([10])
    assert (count(), count()) == (1.0, 1.0)
    rest.lab.add([10])
    assert count() == 2.0
